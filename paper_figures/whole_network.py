"""Caches of the whole network, rule by fill, against fewer steps: `python paper_figures/whole_network.py`.

How close images stay to those of all steps, over the network calls that an image has cost. A colour is a fill, its
line the even mask's; a marker is a rule. In black the same model with fewer steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from measured import named, rows_of
from style import COLOURS, DOUBLE, MARKERS, PSNR, line, program, save

from postdiff.lab.analysis import findings
from postdiff.lab.tables.rows import FlatRow

EXPERIMENT = "whole_network"
QUALITIES = {PSNR: "PSNR to 20 steps, dB ↑", "paired_lpips": "LPIPS to 20 steps ↓"}
# The second word of a row's name.
FILLS = {
    "output": "output held",
    "residual": "residual held",
    "linear": "output in a line",
    "chebyshev": "Chebyshev forecast",
    "clean": "x0 - x held, or a polynomial of x0",
}
# The first.
RULES = {
    "even": "even mask",
    "windows": "Spectrum's windows",
    "easy": "EasyCache",
    "comfy": "EasyCache, ComfyUI's",
    "ucache": "EasyCache, ucache",
    "adaptive": "AdaptiveDiffusion",
    "sea": "SeaCache",
    "lazy": "LazyCache",
    "sada": "SADA",
}
LOOKS = dict(zip(FILLS, COLOURS[1:], strict=False))
SHAPES = dict(zip(RULES, (*MARKERS, "p"), strict=True))


def with_calls(rows: Sequence[FlatRow], known: Mapping[str, float]) -> list[FlatRow]:
    """The rows of which the number of calls is known, with that as one figure more."""
    return [row | {"calls": known[row["row"]]} for row in rows if row["row"] in known]


def draw(rows: Sequence[FlatRow]) -> plt.Figure:
    """A panel for each quality."""
    drawn, axes = plt.subplots(1, len(QUALITIES), figsize=(DOUBLE, 3.6), layout="constrained")
    for (quality, label), panel in zip(QUALITIES.items(), axes, strict=True):
        fewer = sorted(named(rows, r"steps_\d+"), key=lambda row: row["calls"])
        line(panel, fewer, quality, "calls", color=COLOURS[0], marker=".")
        for fill, colour in LOOKS.items():
            even = sorted(named(rows, rf"even_{fill}_\d+"), key=lambda row: row["calls"])
            line(panel, even, quality, "calls", color=colour)
            for rule, marker in SHAPES.items():
                some = named(rows, rf"{rule}_{fill}_\d+")
                line(panel, some, quality, "calls", color=colour, marker=marker, linestyle="", alpha=0.8)
        panel.set_xlabel("network calls an image")
        panel.set_ylabel(label)
    axes[1].set_yscale("log")
    handles = [Line2D([], [], color=COLOURS[0], marker=".", label="fewer steps")]
    handles += [Line2D([], [], color=colour, label=FILLS[fill]) for fill, colour in LOOKS.items()]
    there = {row["row"].partition("_")[0] for row in rows}
    handles += [
        Line2D([], [], color="0.4", linestyle="", marker=marker, label=RULES[rule])
        for rule, marker in SHAPES.items() if rule in there
    ]  # fmt: skip
    drawn.legend(handles=handles, loc="outside lower center", ncols=4)
    return drawn


def main() -> None:
    """Draw from records and save."""
    rows = rows_of(EXPERIMENT, *QUALITIES)
    found = findings.find(EXPERIMENT, "differences", "python experiments/whole_network.py")
    save(draw(with_calls(rows, found.found["calls"])), "whole_network")


if __name__ == "__main__":
    program(main)
