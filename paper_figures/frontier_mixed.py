"""Fewer steps against steps at low resolution: `python paper_figures/frontier_mixed.py`.

One line for fewer steps, and from each of its points a branch for the same steps partly at low resolution. Where a
branch runs on the better side of the line, low resolution is the better way to save. Records of
`postdiff/frontier_mixed`.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from measured import named, rows_of
from style import FRECHET, MARKERS, SAVING, TEXT, legend, line, log_if_wide, panels, program, save

from postdiff.lab.tables.rows import FlatRow

EXPERIMENT = "postdiff/frontier_mixed"


def branches(rows: list[FlatRow]) -> dict[int, list[FlatRow]]:
    """For each number of steps that has mixed rows: its plain row, then the mixed ones, by how much of them is low."""
    found = {}
    for steps in sorted({row["steps"] for row in rows}, reverse=True):
        mixed = named(rows, rf"t{steps}_s[\d.]+")
        if mixed:
            found[steps] = named(rows, f"t{steps}") + sorted(mixed, key=lambda row: float(row["row"].split("_s")[1]))
    return found


def draw(rows: list[FlatRow]) -> plt.Figure:
    """Frechet distance above, text score below, over the saving."""
    drawn, axes = panels((FRECHET, TEXT), SAVING)
    mixed = branches(rows)
    for metric, panel in axes.items():
        line(
            panel, named(rows, r"t\d+"), metric,
            fmt="--o", color="black", linewidth=1.4, markersize=5, label="fewer steps, s = 0", zorder=3,
        )  # fmt: skip
        for place, (steps, branch) in enumerate(mixed.items()):
            # Steps are a quantity, so the colours are a scale: dark for many, light for few.
            colour = plt.get_cmap("viridis")(0.1 + 0.68 * place / max(1, len(mixed) - 1))
            marker = MARKERS[1 + place % (len(MARKERS) - 1)]
            line(panel, branch, metric, fmt=f"-{marker}", color=colour, label=f"T = {steps}, s > 0")
    log_if_wide(axes[FRECHET])
    order = ["fewer steps, s = 0", *(f"T = {steps}, s > 0" for steps in mixed)]
    legend(drawn, axes[FRECHET], order, title="T steps, the part s of them at low resolution")
    return drawn


def main() -> None:
    """Draw from records and save."""
    save(draw(rows_of(EXPERIMENT, "macs_saving", TEXT)), "frontier_mixed")


if __name__ == "__main__":
    program(main)
