"""All drawings in memory, and images made of them with a small jitter."""

import random
from pathlib import Path

import torch
from torch import Tensor

from experiments.styles.icons import render_all
from experiments.styles.treatments import SIDE, on_colour, outline, pixelate, place, premultiply

# A drawing takes 80 to 88 hundredths of the canvas and stands up to 3 pixels off its middle: five hundredths each way.
SIZES, SHIFT = (51, 56), 3


class Drawings:
    """What every concept looks like before it is placed.

    Args:
        folder: Where the icon sets and the rendered drawings are kept, or fetched to.
        concepts: Names from `concepts.txt`; all of them when not given.
    """

    def __init__(self, folder: Path, concepts: list[str] | None = None) -> None:
        rendered = render_all(folder, concepts)
        coloured = [premultiply(one) for one in rendered["noto"]]
        self.layers = {
            "cartoon": coloured,
            "pixel": coloured,
            "stencil": [premultiply(one)[3:] for one in rendered["high-contrast"]],
            "outline": [outline(one) for one in coloured],
        }

    def image(self, concept: int, style: str, colour: str, jitter: random.Random | None = None) -> Tensor:
        """One image, (3, 64, 64) in [0, 1]; in the middle and of the middle size without `jitter`."""
        size, across, down = sum(SIZES) // 2, 0, 0
        if jitter is not None:
            size = jitter.randint(*SIZES)
            across, down = jitter.randint(-SHIFT, SHIFT), jitter.randint(-SHIFT, SHIFT)
        middle = (SIDE - size) // 2
        canvas = place(self.layers[style][concept], size, middle + across, middle + down)
        return on_colour(pixelate(canvas) if style == "pixel" else canvas, colour)

    def images(self, subjects: list[tuple[int, str, str]], jitter: random.Random | None = None) -> Tensor:
        """(concept, style, colour) each, (N, 3, 64, 64) in [0, 1]."""
        return torch.stack([self.image(*subject, jitter) for subject in subjects])
