"""Every method on the shipped model, quality against work and against time: `python paper_figures/comparison.py`.

A setting is on the frontier if none that costs as little or less is better; the line joins those. In black the
same model with fewer steps, which every method has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from measured import rows_of
from style import COLOURS, DOUBLE, FRECHET, LABELS, TEXT, number_points, program, save

from postdiff.lab.tables.rows import FlatRow
from postdiff.metrics import facts

EXPERIMENT = "comparison"
QUALITIES = (FRECHET, TEXT)
COSTS = {"macs_g": "MACs of the denoiser, G an image", "time_s": "time of a call, s"}
# First word of a row's name: whose method it is.
KINDS = {
    "fewer steps": (("steps",), "o", COLOURS[0]),
    "PostDiff and its parts": (("mixed", "deepcache", "cross", "postdiff"), "^", COLOURS[2]),
    "Faster Diffusion": (("encoder", "noise"), "D", COLOURS[1]),
    "others": ((), "s", COLOURS[3]),
}


def kind_of(row: FlatRow) -> str:
    """Which of `KINDS` a row belongs to."""
    first = row["row"].partition("_")[0]
    return next((kind for kind, (words, _, _) in KINDS.items() if first in words), "others")


def frontier(rows: Sequence[FlatRow], cost: str, quality: str) -> list[FlatRow]:
    """The rows that no other one beats at the same or a smaller cost, the cheapest first."""
    sign = 1 if facts(quality).higher_is_better else -1
    found: list[FlatRow] = []
    for row in sorted(rows, key=lambda row: (row[cost], -sign * row[quality])):
        if not found or sign * row[quality] > sign * found[-1][quality]:
            found.append(row)
    return found


def draw(rows: Sequence[FlatRow]) -> plt.Figure:
    """Frechet distance above, text score below; over work left and, where it was measured, over time right."""
    costs = [cost for cost in COSTS if all(row.get(cost) is not None for row in rows)]
    drawn, axes = plt.subplots(
        len(QUALITIES), len(costs), figsize=(DOUBLE, 7.6), layout="constrained", sharey="row", squeeze=False
    )
    for quality, panels in zip(QUALITIES, axes, strict=True):
        for cost, panel in zip(costs, panels, strict=True):
            best = frontier(rows, cost, quality)
            curve = [[row[figure] for row in best] for figure in (cost, quality)]
            panel.plot(*curve, color="0.75", linewidth=2.5, zorder=0)
            for row in rows:
                _, marker, colour = KINDS[kind_of(row)]
                panel.errorbar(
                    row[cost], row[quality], yerr=row.get(f"{quality}_spread"), fmt=marker, color=colour, markersize=4,
                    elinewidth=0.7, capsize=1.5, alpha=1.0 if row in best else 0.55,
                )  # fmt: skip
            panel.margins(0.08)
            if quality == QUALITIES[-1]:
                panel.set_xlabel(COSTS[cost])
        panels[0].set_ylabel(LABELS[quality])
    looks = [KINDS[kind_of(row)] for row in rows]
    handles = [Line2D([], [], linestyle="", marker=marker, color=colour) for _, marker, colour in looks]
    names = [f"{number}  {row['label']}" for number, row in enumerate(rows, 1)]
    drawn.legend(handles, names, loc="outside lower center", ncols=3, fontsize=6, handletextpad=0.2)
    for quality, panels in zip(QUALITIES, axes, strict=True):
        spreads = [row.get(f"{quality}_spread") or 0.0 for row in rows]
        for cost, panel in zip(costs, panels, strict=True):
            number_points(panel, [(row[cost], row[quality]) for row in rows], spreads)
    return drawn


def main() -> None:
    """Draw from records and save."""
    save(draw(rows_of(EXPERIMENT, "macs_g", *QUALITIES)), "comparison")


if __name__ == "__main__":
    program(main)
