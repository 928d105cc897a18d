"""The text score of the clean estimate after every step: `python paper_figures/step_clip.py`.

One line for each length s of the low-resolution part, dotted where it ends, and the same as a difference to the run
at full resolution. Records of `postdiff/step_clip`, which were made with `step_scores`.
"""

from __future__ import annotations

import math
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from measured import rows_of
from style import COLOURS, MARKERS, TEXT, legend, panels, program, save

from postdiff.engine.errors import UsageError
from postdiff.lab.records.record import Record, find

EXPERIMENT = "postdiff/step_clip"
FULL = "full"
DIFFERENCE = "difference to full resolution"


def records() -> dict[str, Record]:
    """The records that hold a score after every step, by row.

    Raises:
        UsageError: there is none.
    """
    found = {row["row"]: find(EXPERIMENT, row["row"]) for row in rows_of(EXPERIMENT)}
    scored = {name: record for name, record in found.items() if record and TEXT in record.curves}
    if not scored:
        raise UsageError(f"no record of {EXPERIMENT} has {TEXT} after every step; run it with step_scores=true")
    return scored


def curve(record: Record) -> np.ndarray:
    """Score after each step, mean over seeds."""
    return np.mean(list(record.curves[TEXT].values()), axis=0)


def low_steps(record: Record) -> int:
    """How many steps were made at low resolution, rounded as the method rounds for a first-order solver."""
    for method in record.config["methods"]:
        if (switch := method.get("mixed_resolution", {}).get("switch")) is not None:
            return math.floor(switch * record.config["steps"] + 0.5) if isinstance(switch, float) else switch
    return 0


def draw(by_row: dict[str, Record]) -> plt.Figure:
    """The score above, its difference to full resolution below, over the step."""
    drawn, axes = panels((TEXT, DIFFERENCE), "step")
    for record, colour, marker in zip(by_row.values(), cycle(COLOURS), cycle(MARKERS), strict=False):
        scores, look = curve(record), {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1}
        steps = np.arange(1, len(scores) + 1)
        axes[TEXT].plot(steps, scores, label=record.label, **look)
        if FULL in by_row:
            axes[DIFFERENCE].plot(steps, scores - curve(by_row[FULL]), **look)
        if low := low_steps(record):
            for panel in axes.values():
                panel.axvline(low + 0.5, color=colour, linewidth=0.6, linestyle=":")
    legend(drawn, axes[TEXT], [record.label for record in by_row.values()], columns=3)
    return drawn


def main() -> None:
    """Draw from records and save."""
    save(draw(records()), "step_clip")


if __name__ == "__main__":
    program(main)
