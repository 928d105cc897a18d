"""Whether a plan's times hold: its rows timed in turns, as `postdiff bench` does it, beside what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from postdiff.engine.errors import UsageError
from postdiff.lab import run
from postdiff.lab.config.experiment import load
from postdiff.lab.planner.budget import Budget
from postdiff.lab.records import record

__all__ = ["check"]

SECONDS = 120.0  # of timing, at most


def check(file: Path, budget: Budget, predicted: Mapping[str, float]) -> str:
    """Time the rows of a plan, and say how far the predictions were off.

    Args:
        file: of the plan.
        budget: a time.
        predicted: {row: seconds an image}.

    Raises:
        UsageError: the rows cannot be timed.
    """
    experiment = load(str(file), {"bench": {"repeats": 5, "seconds": SECONDS}}).select(list(predicted))
    run.bench(experiment)
    said = []
    for name, seconds in predicted.items():
        found = record.find(experiment.name, name, "speed")
        if found is None:
            raise UsageError(f"row '{name}' has no times; give the same command again")
        measured = float(found.latency["median_s"])
        text = f"{name} {budget.written(measured)} (predicted {budget.written(seconds)}, {seconds / measured - 1:+.0%})"
        said.append(text + (", beyond the budget" if name != "full" and measured > budget.value else ""))
    return "Measured in turns: " + "; ".join(said)
