"""Which methods run together: every pair of presets of one method, in both orders, on a U-Net and on a transformer.

    python experiments/composition.py            # prints the table of docs/composition.md
    python experiments/composition.py --write    # puts it there

The U-Net is the shipped model's, the transformer a tiny PixArt with random weights. A pair "runs" if the image is
finite and the same in either order.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
)
from tqdm import tqdm

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.pipelines import cards, models
from postdiff.presets import build_methods, preset

PAGE = Path(__file__).parents[1] / "docs" / "composition.md"
BEGIN, END = "<!-- pairs: made by experiments/composition.py -->", "<!-- end of pairs -->"
STEPS = 8
SIGNS = {"runs": "+", "order": "!", "refused": "x", "alone": "-"}
Call = Callable[[Any], torch.Tensor]


def names() -> list[str]:
    """Presets that hold one method and are called as it is."""
    return [name for name in catalog.names("methods") if [next(iter(spec)) for spec in preset(name).methods] == [name]]


def unet() -> tuple[Any, Call]:
    """The shipped model and a call of it."""
    pipe = models.load(cards.card("emoji"), "float32", "cpu")
    return pipe, lambda run: run("rocket", num_inference_steps=STEPS, generator=_own(), output_type="latent").images


def transformer() -> tuple[Any, Call]:
    """A tiny PixArt and a call of it."""
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        sample_size=16, num_layers=10, attention_head_dim=12, num_attention_heads=2, in_channels=4, out_channels=8,
        cross_attention_dim=24, caption_channels=32, norm_num_groups=4, num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
    ).eval()  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2).eval()  # fmt: skip
    pipe = PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=network, scheduler=DPMSolverMultistepScheduler()
    )
    text, mask = torch.randn(2, 1, 6, 32, generator=_own()), torch.ones(1, 6)
    given = {
        "prompt_embeds": text[0], "negative_prompt_embeds": text[1], "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask, "negative_prompt": None, "use_resolution_binning": False,
        "height": 32, "width": 32, "num_inference_steps": STEPS, "output_type": "latent",
    }  # fmt: skip
    return pipe, lambda run: run(**given, generator=_own()).images


def verdict(pipe: Any, call: Call, stack: Sequence[str]) -> tuple[str, str]:
    """("runs" | "order" | "refused", reason) of a stack of presets."""
    try:
        first = call(accelerate(pipe, build_methods(stack)))
        second = call(accelerate(pipe, build_methods(stack[::-1])))
    except UsageError as reason:
        return "refused", str(reason)
    if not torch.isfinite(first).all():
        raise SystemExit(f"{' + '.join(stack)}: the image holds NaN or infinity; mend that before the table")
    return ("runs", "") if torch.equal(first, second) else ("order", "the two orders give different images")


def verdicts(pipe: Any, call: Call, title: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Of every pair; a pair with a method that the network refuses by itself is "alone"."""
    pipe.set_progress_bar_config(disable=True)
    alone = {name: verdict(pipe, call, [name]) for name in tqdm(names(), desc=f"{title}, one by one")}
    found = {}
    for pair in tqdm(list(itertools.combinations(names(), 2)), desc=f"{title}, pairs"):
        refused = [alone[name] for name in pair if alone[name][0] == "refused"]
        found[pair] = ("alone", refused[0][1]) if refused else verdict(pipe, call, pair)
    return found


def render() -> str:
    """The two tables as one: above the diagonal the U-Net, below it the transformer."""
    above, below = (verdicts(*build(), title) for build, title in ((unet, "U-Net"), (transformer, "transformer")))
    known = names()
    lines = ["| | " + " | ".join(str(i + 1) for i in range(len(known))) + " |"]
    lines.append("| --- |" + " :-: |" * len(known))
    for i, row in enumerate(known):
        cells = [
            "" if i == j else SIGNS[(above if i < j else below)[tuple(sorted((row, column), key=known.index))][0]]
            for j, column in enumerate(known)
        ]
        lines.append(f"| {i + 1} `{row}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _own() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/composition.md")
    given = parser.parse_args(words)
    quiet.quiet()
    table = render()
    if not given.write:
        print(table)
        return 0
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
