"""Fewer steps against the whole of PostDiff: `python paper_figures/frontier_full.py`.

The settings are those that the paper chose for three models, all run on the shipped model. Records of
`postdiff/frontier_full`.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from measured import named, rows_of, spans
from style import COLOURS, FRECHET, SAVING, TEXT, legend, line, log_if_wide, panels, program, save

from postdiff.lab.tables.rows import FlatRow

EXPERIMENT = "postdiff/frontier_full"
FEWER, POSTDIFF = r"sd15_steps_\d+", r"sd15_postdiff_\d+"
FARTHER = r"sd15_postdiff_20(_k\d+)?"  # from there on: full steps of DeepCache every k
LINES = {
    FEWER: {"label": "fewer steps", "fmt": "--o", "linewidth": 1.4, "markersize": 5},
    POSTDIFF: {"label": "PostDiff, as for SD V1.5", "fmt": "-s"},
    FARTHER: {"label": "the same, 20 steps, k above 2", "fmt": ":P", "markerfacecolor": "white", "zorder": 1.9},
    r"sdxl_postdiff_\d+": {"label": "PostDiff, as for SDXL", "fmt": "-^"},
    r"pixart_postdiff_\d+": {"label": "PostDiff, as for PixArt-alpha", "fmt": "-D"},
}


def crossing(rows: list[FlatRow]) -> dict[str, float | None]:
    """For each metric the saving up to which PostDiff, as for SD V1.5, is at least as good as fewer steps.

    It is counted from the least saving that both have; None if PostDiff is worse there. It is at most the largest
    saving that both have.
    """
    found = {}
    for metric in (FRECHET, TEXT):
        pieces = spans(named(rows, FEWER), named(rows, POSTDIFF), metric)
        found[metric] = pieces[0][1] if pieces and pieces[0][2] else None
    return found


def draw(rows: list[FlatRow]) -> plt.Figure:
    """Frechet distance above, text score below, over the saving."""
    drawn, axes = panels((FRECHET, TEXT), SAVING)
    colours = dict(zip(LINES, (COLOURS[0], COLOURS[1], COLOURS[1], COLOURS[2], COLOURS[3]), strict=True))
    for metric, panel in axes.items():
        for pattern, look in LINES.items():
            # By saving, not by steps: at few steps the two full steps around m weigh more, and 6 save less than 8.
            members = sorted(named(rows, pattern), key=lambda row: row["macs_saving"])
            if pattern != FARTHER or len(members) > 1:
                line(panel, members, metric, color=colours[pattern], **look)
    log_if_wide(axes[FRECHET])
    legend(drawn, axes[FRECHET], [look["label"] for look in LINES.values()], columns=1)
    return drawn


def main() -> None:
    """Draw from records, save, and say where PostDiff is the better way to save and where fewer steps are."""
    rows = rows_of(EXPERIMENT, "macs_saving", TEXT)
    save(draw(rows), "frontier_full")
    for metric, until in crossing(rows).items():
        pieces = spans(named(rows, FEWER), named(rows, POSTDIFF), metric)
        message = [f"{start:.2f} to {end:.2f} {'PostDiff' if good else 'fewer steps'}" for start, end, good in pieces]
        reach = f"at least as good up to {until:.2f} times fewer MACs" if until else "not as good at the least saving"
        print(f"{metric}: PostDiff, as for SD V1.5, is {reach} ({', '.join(message) or 'no savings in common'})")


if __name__ == "__main__":
    program(main)
