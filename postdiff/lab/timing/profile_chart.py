"""The chart of `postdiff profile`: for each row, time by step beside MACs by step, stacked by group of modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from postdiff.lab.bench.profile_figures import LOOP, seconds, work
from postdiff.lab.bench.profiling import Profiled

from postdiff.cost.groups import GROUPS
from postdiff.lab.files import folders

__all__ = ["draw"]

# Okabe and Ito's colours, which remain apart for colour-blind readers, and grey.
_HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#e69f00", "#b0b0b0")
COLOURS = dict(zip(LOOP, _HUES, strict=True))
WIDTH, ROW_HEIGHT = 7.0, 1.15  # inches
LOOK: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "legend.fontsize": 7,
}


def draw(rows: Sequence[Profiled], file: Path) -> None:
    """Write the chart as PNG; all rows have the same scales. Text encoder and VAE are not in it, being in no step."""
    with matplotlib.rc_context(LOOK):
        drawn = Figure(figsize=(WIDTH, 0.9 + ROW_HEIGHT * len(rows)), layout="constrained")
        panels = drawn.subplots(len(rows), 2, squeeze=False, sharey="col")
        for one, (left, right) in zip(rows, panels, strict=True):
            steps = range(one.time.steps)
            times, macs = [seconds(one, step) for step in steps], [work(one, step) for step in steps]
            total = sum(seconds(one).values())
            _stack(left, times, LOOP, 1e3)
            _stack(right, macs, GROUPS, 1e-9)
            left.set_title(f"{one.plan.row.label}: {1e3 * total:.0f} ms a picture", loc="left")
            right.set_title(f"{1e-9 * sum(work(one).values()):.2f} GMACs", loc="left")
            left.set_ylabel("ms")
            right.set_ylabel("GMACs")
        for panel in panels[-1]:
            panel.set_xlabel("step")
        handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
        drawn.legend(handles=handles, loc="outside upper center", ncols=len(LOOP), handlelength=1, columnspacing=1)
        with folders.whole_file(file) as temporary:
            drawn.savefig(temporary, dpi=200)


def _stack(panel: Axes, steps: Sequence[dict[str, float]], places: Sequence[str], scale: float) -> None:
    """One bar a step, its places one upon the other."""
    below = [0.0] * len(steps)
    for place in places:
        heights = [scale * found.get(place, 0.0) for found in steps]
        panel.bar(range(len(steps)), heights, bottom=below, width=0.85, color=COLOURS[place], linewidth=0)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    panel.set_xlim(-0.6, len(steps) - 0.4)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(length=2)
