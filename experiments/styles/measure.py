"""What the parts are worth: the judge on real images, the autoencoder by style, and the model as the judge sees it.

    python -m experiments.styles.measure --out outputs/styles --what vae,judge,copies,model

writes what it prints to `measurements.json` in `--out`. Every score is over images of fixed seeds, and says how many.
With `--model` it is another folder's U-Net and text tower, such as weights of fewer steps; the file then goes there.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.styles import dual_encoder, likeness
from experiments.styles.captions import COLOURS, STYLES, Subject
from experiments.styles.differences import measure_differences
from experiments.styles.drawings import Drawings
from experiments.styles.held_loss import losses_of
from experiments.styles.judge import Judge, nearest_colour
from experiments.styles.judge_images import Bank, held_bank, seen_bank
from experiments.styles.latents import Captions
from experiments.styles.sheets import generate, sheet
from experiments.styles.split import Split, read_split
from experiments.styles.vae import decode, encode, psnr

Table = dict[str, dict[str, float]]
WHAT = ("vae", "judge", "dual", "copies", "loss", "model", "likeness", "differences", "sheet")
AMONG = 20
COLOURS_OF_A_PAIR = 3
# Noise of one seed never comes again at another.
FIRST = 10_000


def by_style(values: Tensor, styles: Tensor) -> dict[str, float]:
    """The mean of every style, of the styles, and how many images there are."""
    means = {style: values[styles == index].mean().item() for index, style in enumerate(STYLES)}
    return {**means, "mean": sum(means.values()) / len(means), "images": len(values)}


def sample(bank: Bank, count: int) -> Bank:
    """So many images of a bank, always the same."""
    chosen = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:count]
    return bank.where(chosen)


def measure_vae(vae: AutoencoderKL, drawings: Drawings, split: Split) -> Table:
    """Decibels of held-out and of seen images at full and half size."""
    table = {}
    for name, bank in {"held": held_bank(drawings, split, 1), "seen": sample(seen_bank(drawings, split), 336)}.items():
        for side, images in {"full": bank.floats(), "half": F.avg_pool2d(bank.floats(), 2)}.items():
            table[f"psnr, {name}, {side}"] = by_style(
                psnr(images, decode(vae, encode(vae, images))), bank.subjects[:, 1]
            )
    return table


def load_judge(out: Path, part: str) -> Judge:
    """The averaged weights of one network."""
    return Judge.load_from_checkpoint(out / "checkpoints" / f"{part}.ckpt", map_location="cpu", weights_only=False)


def retrieved(scores: Tensor, labels: Tensor) -> Tensor:
    """Whether the true concept has the highest score among itself and 19 others taken at random, (N,)."""
    generator = torch.Generator().manual_seed(0)
    others = torch.stack([torch.randperm(scores.shape[1], generator=generator) for _ in labels])
    others = torch.stack([row[row != label][: AMONG - 1] for row, label in zip(others, labels, strict=True)])
    return (scores.gather(1, labels[:, None]) > scores.gather(1, others)).all(1).float()


def verdicts(style: Judge, concept: Judge, images: Tensor, subjects: Tensor) -> Table:
    """How often the judge names style, concept and colour, by style."""
    scores = concept(images)
    right = {
        "style": (style(images).argmax(1) == subjects[:, 1]).float(),
        "concept": (scores.argmax(1) == subjects[:, 0]).float(),
        f"concept among {AMONG}": retrieved(scores, subjects[:, 0]),
        "colour": (nearest_colour(images) == subjects[:, 2]).float(),
    }
    return {name: by_style(values, subjects[:, 1]) for name, values in right.items()}


def measure_judge(out: Path, vae: AutoencoderKL, drawings: Drawings, split: Split) -> Table:
    """The judge on real images that it has not seen: new concepts for the style, held-out pairs for the concept."""
    tried, style, concept = (load_judge(out, part) for part in ("style-tried", "style", "concept"))
    table: Table = {}
    new = seen_bank(drawings, split, 1)
    for name, bank in {
        "new concepts": new.where(new.subjects[:, 0] % 5 == 0),
        "held pairs": held_bank(drawings, split, 2),
    }.items():
        for kind, other in {"real": bank, "through the autoencoder": bank.through(vae)}.items():
            judges = (tried if name == "new concepts" else style, concept)
            for what, row in verdicts(*judges, other.floats(), other.subjects).items():
                if name == "held pairs" or what == "style":
                    table[f"{what}, {name}, {kind}"] = row
    return table


def measure_dual(out: Path, drawings: Drawings, split: Split) -> Table:
    """How often held-out images, real and through the autoencoder, find their caption and each part of it."""
    folder, vae = out / "dual_encoder", AutoencoderKL.from_pretrained(out / "vae")
    captions = Captions(CLIPTokenizer.from_pretrained(folder), split.concepts)
    bank = held_bank(drawings, split, 1)
    table: Table = {}
    for kind, other in {"real": bank, "through the autoencoder": bank.through(vae)}.items():
        for what, right in dual_encoder.retrieved(folder, other, captions).items():
            table[f"dual encoder, {what}, held pairs, {kind}"] = by_style(right, other.subjects[:, 1])
    return table


def measure_copies(drawings: Drawings, split: Split) -> Table:
    """How near the nearest training image of the same concept is to a held-out one, in RMS of [0, 1], on white.

    Beside it: how near two seen styles of one concept are at the nearest.
    """
    images = {
        (concept, style): drawings.image(index, style, "white")
        for index, concept in enumerate(split.concepts)
        for style in STYLES
    }
    table: Table = {}
    for name, pairs in {"held": split.held_pairs(), "seen": split.seen_pairs()}.items():
        nearest = []
        for concept, style in pairs:
            others = [one for one in STYLES if one != style and (concept, one) not in split.pairs]
            gaps = [(images[concept, style] - images[concept, one]).square().mean().sqrt() for one in others]
            nearest.append(min(gaps))
        styles = torch.tensor([STYLES.index(style) for _, style in pairs])
        table[f"nearest copy, {name}"] = by_style(torch.stack(nearest), styles)
        table[f"nearest copy, {name}"]["least"] = min(nearest).item()
    return table


def asked(split: Split) -> dict[str, list[Subject]]:
    """What is generated: every held-out pair on three colours that its style was seen on, and so many seen pairs.

    The seen ones are the same concepts in another style.
    """
    randomness = random.Random(0)
    subjects: dict[str, list[Subject]] = {"held": [], "seen": []}
    for concept, held_style in split.held_pairs():
        other = randomness.choice([one for one in STYLES if one != held_style])
        for name, style in {"held": held_style, "seen": other}.items():
            for colour in randomness.sample(split.seen_colours(style), COLOURS_OF_A_PAIR):
                subjects[name].append(Subject(concept, style, colour))
    return subjects


def generated(pipeline: StableDiffusionPipeline, subjects: list[Subject], seeds: int, *words: float) -> Tensor:
    """Images of every seed, (seeds, prompts, 3, 64, 64); smaller ones are enlarged."""
    images = torch.stack([generate(pipeline, subjects, *words, first=FIRST * seed) for seed in range(seeds)])
    if images.shape[-1] == 64:
        return images
    return F.interpolate(images.flatten(0, 1), size=(64, 64), mode="bilinear", antialias=True).unflatten(0, (seeds, -1))


def measure_loss(model: Path, vae: AutoencoderKL, drawings: Drawings, split: Split) -> Table:
    """v-loss of true drawings, held-out pairs and seen ones, by style and by quarters of the schedule."""
    table: Table = {}
    for name, subjects in asked(split).items():
        losses, t = losses_of(model, subjects, vae, drawings, split)
        row = by_style(losses, numbers(subjects, split)[:, 1])
        for quarter in range(4):
            row[f"t from {250 * quarter}"] = losses[t // 250 == quarter].mean().item()
        table[f"v-loss, {name} pairs"] = row
    return table


def measure_model(
    out: Path, model: Path, split: Split, seeds: int, steps: int, guidance: float, side: int = 64
) -> Table:
    """What the judge says of images of held-out pairs, and of as many seen ones of the same concepts."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    style, concept = load_judge(out, "style"), load_judge(out, "concept")
    table: Table = {}
    for name, subjects in asked(split).items():
        images = generated(pipeline, subjects, seeds, steps, guidance, side).flatten(0, 1)
        for what, row in verdicts(style, concept, images, numbers(subjects * seeds, split)).items():
            table[f"{what}, {name} pairs, generated, guidance {guidance}, {side} px"] = row
    return table


def measure_likeness(model: Path, drawings: Drawings, split: Split, seeds: int, steps: int, guidance: float) -> Table:
    """Medians of LPIPS: to the true drawing and to the nearest of training, of two seeds and of two prompts."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    subjects = asked(split)["held"]
    images = generated(pipeline, subjects, seeds, steps, guidance)
    true, nearest = likeness.to_true_and_nearest(images[0], subjects, drawings, split)
    apart = {"two seeds": likeness.of_seeds(images), "two prompts": likeness.of_prompts(images, subjects)}
    return {
        f"LPIPS, held pairs, guidance {guidance}": {
            "to the true drawing": true.median().item(),
            "to the nearest of training": nearest.median().item(),
            "nearer to the true one": (true < nearest).float().mean().item(),
            **{name: values.median().item() for name, values in apart.items()},
            "images": len(subjects) * seeds,
        }
    }


def numbers(subjects: list[Subject], split: Split) -> Tensor:
    """Concept, style and colour as numbers, (N, 3)."""
    concepts, colours = list(split.concepts), list(COLOURS)
    return torch.tensor(
        [[concepts.index(one.concept), STYLES.index(one.style), colours.index(one.colour)] for one in subjects]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/styles"), help="folder that the training wrote")
    parser.add_argument("--model", type=Path, help="folder of a pipeline; `model` in --out if not given")
    parser.add_argument("--what", default="vae,judge,copies", help=f"which of {','.join(WHAT)}")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="images of a prompt")
    parser.add_argument("--side", type=int, default=64, help="64, or 32 for half size")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = options.model or options.out / "model"
    split = read_split()
    drawings = Drawings(options.out / "data", list(split.concepts))
    table: Table = {}
    for what in options.what.split(","):
        vae = AutoencoderKL.from_pretrained(options.out / "vae") if what in ("vae", "judge", "loss") else None
        if what == "vae":
            table |= measure_vae(vae, drawings, split)
        elif what == "judge":
            table |= measure_judge(options.out, vae, drawings, split)
        elif what == "dual":
            table |= measure_dual(options.out, drawings, split)
        elif what == "copies":
            table |= measure_copies(drawings, split)
        elif what == "loss":
            table |= measure_loss(model, vae, drawings, split)
        elif what == "model":
            words = (options.seeds, options.steps, options.guidance, options.side)
            table |= measure_model(options.out, model, split, *words)
        elif what == "likeness":
            table |= measure_likeness(model, drawings, split, options.seeds, options.steps, options.guidance)
        elif what == "differences":
            pipeline = StableDiffusionPipeline.from_pretrained(model)
            words = (options.seeds, options.guidance, options.steps)
            table |= measure_differences(pipeline, drawings, split, *words)
        elif what == "sheet":
            picture = sheet(model, drawings, split, options.steps, options.guidance, options.side)
            picture.save(options.out / f"sheet_{options.side}.png")
        else:
            parser.error(f"--what: {what!r} is not among {', '.join(WHAT)}")
    for name, row in table.items():
        print(f"{name}: " + ", ".join(f"{key} {round(value, 3):g}" for key, value in row.items()))
    file = (options.model or options.out) / "measurements.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(before | table, indent=2) + "\n")


if __name__ == "__main__":
    main()
