"""What the cross-attention cache keeps, and from which step on: `python paper_figures/ablation.py`.

Guidance ends at step m of 20; from then on the text cross-attention is replayed from what was kept. Records of
`postdiff/cross_attention_ablation`.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from measured import named, rows_of
from style import COLOURS, FRECHET, TEXT, legend, line, log_if_wide, panels, program, save

from postdiff.lab.tables.rows import FlatRow

EXPERIMENT = "postdiff/cross_attention_ablation"
FILLS = ("ave", "cond", "cfg")  # mean of both branches, the conditional one, or the guided output
GATES = (5, 10, 15)


def fill_rows(rows: list[FlatRow], fill: str, alone: bool) -> list[FlatRow]:
    """The rows of one way to fill the cache, each with its m, moved a little so that error bars do not hide others."""
    shift = 0.2 * (2 * FILLS.index(fill) - 2.5 + alone)
    found = []
    for gate in GATES:
        found += [{**row, "m": gate + shift} for row in named(rows, f"m{gate}_{fill}" + "_alone" * alone)]
    return found


def draw(rows: list[FlatRow]) -> plt.Figure:
    """Frechet distance above, text score below, over m."""
    drawn, axes = panels((FRECHET, TEXT), "m, steps with guidance (of 20)", height=4.6)
    for metric, panel in axes.items():
        for fill, colour, marker in zip(FILLS, COLOURS[1:], "os^", strict=False):
            look = {"color": colour, "x": "m"}
            line(panel, fill_rows(rows, fill, False), metric, fmt=f"-{marker}", label=f"DeepCache + {fill}", **look)
            line(
                panel, fill_rows(rows, fill, True), metric,
                fmt=f"--{marker}", markerfacecolor="white", label=f"{fill} alone", **look,
            )  # fmt: skip
        for name, label, dashes in (("original", "20 steps", "-"), ("deepcache", "DeepCache", ":")):
            for row in named(rows, name):
                if row.get(metric) is not None:
                    panel.axhline(row[metric], color="0.3", linestyle=dashes, linewidth=1, label=label)
        panel.set_xticks(GATES)
    log_if_wide(axes[FRECHET])
    order = [*(f"DeepCache + {fill}" for fill in FILLS), *(f"{fill} alone" for fill in FILLS), "20 steps", "DeepCache"]
    legend(drawn, axes[FRECHET], order, columns=2)
    return drawn


def main() -> None:
    """Draw from records and save."""
    save(draw(rows_of(EXPERIMENT, TEXT)), "ablation")


if __name__ == "__main__":
    program(main)
