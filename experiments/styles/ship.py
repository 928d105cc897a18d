"""Put the trained parts together as the folder that ships: pipeline, dual encoder, held-out prompts, references.

    python -m experiments.styles.ship --out outputs/styles --to postdiff/zoo/styles

A prompt of the list is a combination that no training saw: a held-out (concept, style) pair on any colour, or a style
on the colour that is held out for it. The references are the true drawings of these prompts.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from torch import Tensor

from experiments.emoji_features import written
from experiments.styles.captions import COLOURS, STYLES, Subject
from experiments.styles.drawings import Drawings
from experiments.styles.icons import SETS
from experiments.styles.split import Split, read_split
from postdiff.zoo import EMOJI

PARTS = ("unet", "text_encoder", "tokenizer", "vae", "scheduler")
HERE = Path(__file__).parent


def held_out(split: Split) -> list[Subject]:
    """Every combination that is held out, in an order that means nothing, always the same."""
    found = [
        Subject(concept, style, colour)
        for concept in split.concepts
        for style in STYLES
        for colour in COLOURS
        if split.held(concept, style, colour)
    ]
    random.Random(0).shuffle(found)
    return found


def line(subject: Subject, split: Split) -> str:
    """A line of the list of prompts: the caption, its parts, and what about it is held out."""
    pair = (subject.concept, subject.style) in split.pairs
    return json.dumps({"prompt": subject.caption(), **vars(subject), "held_out": "pair" if pair else "colour"})


def references(subjects: list[Subject], drawings: Drawings, split: Split) -> Tensor:
    """The true drawings of the prompts, each with its jitter, (N, 3, 64, 64), uint8."""
    triples = split.numbered(subject.whole() for subject in subjects)
    return drawings.images(triples, random.Random("references")).mul(255).round().byte()


def ship(out: Path, to: Path, drawings: Drawings, split: Split) -> None:
    """Write the folder; what it held of earlier weights is replaced."""
    for part in PARTS:
        shutil.rmtree(to / part, ignore_errors=True)
        shutil.copytree(out / "model" / part, to / part)
    for file in ("model_index.json", "training.json"):
        shutil.copyfile(out / "model" / file, to / file)
    shutil.rmtree(to / "dual_encoder", ignore_errors=True)
    shutil.copytree(out / "dual_encoder", to / "dual_encoder")
    shutil.copyfile(HERE / "NOTICE", to / "NOTICE")
    (to / "LICENSES").mkdir(exist_ok=True)
    shutil.copyfile(EMOJI / "LICENSES" / "Apache-2.0.txt", to / "LICENSES" / "Apache-2.0.txt")
    subjects = held_out(split)
    (to / "prompts.jsonl").write_text("".join(line(one, split) + "\n" for one in subjects))
    source = " and ".join(SETS.values()) + " on npm, in four styles on eight colours"
    (to / "efficientnet_features.safetensors").write_bytes(
        written(references(subjects, drawings, split), "styles", source)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/styles"), help="folder that the training wrote")
    parser.add_argument("--to", type=Path, default=Path("postdiff/zoo/styles"), help="where to put the model")
    options = parser.parse_args()
    split = read_split()
    ship(options.out, options.to, Drawings(options.out / "data", list(split.concepts)), split)
    print(f"{options.to}: {sum(file.stat().st_size for file in options.to.rglob('*') if file.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
