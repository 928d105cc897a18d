"""The feature records that several figures are drawn from, and what their blocks look like."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from style import COLOURS

from postdiff.lab.analysis import findings
from postdiff.lab.analysis.findings import Findings

__all__ = ["RECORD", "file_name", "from_words", "looks", "image_grid", "record"]

EXPERIMENT = "faster_diffusion/features"
RECORD = "emoji_ddim_50"
COMMAND = "python experiments/{}.py"


def record(name: str, program: str = "feature_evolution") -> Findings:
    """The fresh record of that name, or else the committed one.

    Raises:
        UsageError: there is none; the program that makes it is named.
    """
    return findings.find(EXPERIMENT, name, COMMAND.format(program))


def from_words(main: Callable[[str], None]) -> Callable[[], None]:
    """`main` with the record's name from the command line, for instance `feature_change.py dit_xl_256_own_50`."""
    return lambda: main(*sys.argv[1:2])


def file_name(script: str, name: str) -> str:
    """What a figure is saved as: the script's name, with the record's where that is not the usual one."""
    return script if name == RECORD else f"{script}_{name}"


def looks(blocks: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How to draw each block: blues and solid down the encoder, orange and dashed up the decoder, black the middle.

    Of more than ten blocks only the first and the last of each part are named in the legend.
    """
    parts = {
        part: [label for label, block in blocks.items() if block["part"] == part] for part in ("encoder", "decoder")
    }
    maps = {"encoder": plt.get_cmap("Blues"), "decoder": plt.get_cmap("Oranges")}
    found: dict[str, dict[str, Any]] = {}
    for label, block in blocks.items():
        if block["part"] == "middle":
            found[label] = {"color": COLOURS[0], "linestyle": "-.", "label": label}
            continue
        among = parts[block["part"]]
        place = among.index(label) / max(len(among) - 1, 1)
        named = len(blocks) <= 10 or label in (among[0], among[-1])
        found[label] = {
            "color": maps[block["part"]](0.45 + 0.5 * place),
            "linestyle": "-" if block["part"] == "encoder" else "--",
            "label": label if named else None,
        }
    return found


def image_grid(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], columns: Sequence[str], width: float, above: str | None = None
) -> plt.Figure:
    """Small images without axes: a label before each row and above each column; `width` in inches."""
    count = len(columns)
    left = max(len(label) for label, _ in rows) * 0.062 + 0.1
    side = (width - left) / count
    top = 0.36 if above else 0.2
    height = len(rows) * side + top
    drawn = plt.figure(figsize=(width, height))
    for line, (label, images) in enumerate(rows):
        bottom = 1 - (top + (line + 1) * side) / height
        drawn.text((left - 0.05) / width, bottom + side / height / 2, label, ha="right", va="center", fontsize=7)
        for column, image in enumerate(images):
            place = ((left + column * side) / width, bottom, 0.95 * side / width, 0.95 * side / height)
            axes = drawn.add_axes(place)
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
    for column, title in enumerate(columns):
        x = (left + (column + 0.475) * side) / width
        drawn.text(x, 1 - (top - 0.03) / height, title, ha="center", va="bottom", fontsize=7)
    if above:
        drawn.text((left + count * side / 2) / width, 1 - 0.02 / height, above, ha="center", va="top", fontsize=7)
    return drawn
