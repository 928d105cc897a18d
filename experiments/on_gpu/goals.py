"""What was promised of the figures of a GPU, and which rows keep it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["GOALS", "Goal", "Verdict", "verdicts"]

FlatRow = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A value and the least that it should be.

    Attributes:
        told: in words.
        experiments: pattern of their names.
        rows: pattern of the rows' names.
        value: key of a flat row.
        least: what it should reach.
    """

    message: str
    experiments: str
    rows: str
    column: str
    least: float


GOALS = (
    Goal("share of the ideal that the loop reaches", "speed/.*", "(?!original).*_b1", "realised", 0.90),
    Goal("share of the ideal that the loop reaches", "speed/.*", "(?!original).*_b8", "realised", 0.95),
    Goal("the driver without methods takes at most 1 % longer", "speed/.*", "original_.*", "official_loop_ratio", 0.99),
    # Of two that are equally fast the median of the ratio is below 1 half of the time.
    Goal("not slower than DeepCache's package (upper quartile)", "speed/.*", "deepcache_.*", "official_ratio_q75", 1.0),
    Goal("PostDiff, as its paper prints it", "speed/sd15_768", "postdiff_cut_.*", "loop_speedup", 2.57),
    Goal("parallel encoder propagation", "speed/sd15_ddim50", "parallel_.*", "loop_speedup", 1.70),
    Goal("a stack", "speed/sd15_768", "stacked_.*", "loop_speedup", 4.0),
)


@dataclass(frozen=True)
class Verdict:
    """One row beside one goal.

    Attributes:
        goal: the goal.
        experiment: name of the row's.
        row: its name.
        label: what tables call it.
        value: what was measured.
    """

    goal: Goal
    experiment: str
    row: str
    label: str
    value: float

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.goal.least

    @property
    def short(self) -> float:
        """How far it is missed, as a share of the goal; 0 or less if it is met."""
        return 1 - self.value / self.goal.least


def verdicts(measured: Iterable[tuple[str, FlatRow]], goals: Iterable[Goal] = GOALS) -> list[Verdict]:
    """Every goal beside every row that it speaks of and that has its value.

    Args:
        measured: (experiment, flat row) of all rows.
        goals: the goals.
    """
    rows = list(measured)
    return [
        Verdict(goal, experiment, row["row"], row["label"], row[goal.column])
        for goal in goals
        for experiment, row in rows
        if re.fullmatch(goal.experiments, experiment)
        and re.fullmatch(goal.rows, row["row"])
        and row.get(goal.column) is not None
    ]
