"""The rows that figures are drawn from, and what is read off two curves of them."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence

import numpy as np

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import load
from postdiff.lab.records import record
from postdiff.lab.tables.rows import FlatRow, flat_rows
from postdiff.metrics import facts

__all__ = ["named", "rows_of", "spans"]


def rows_of(experiment: str, *needed: str) -> list[FlatRow]:
    """Flat rows of what has been measured, in the order of the experiment file.

    Args:
        experiment: its name.
        needed: figures without which a row is left out.

    Raises:
        UsageError: no row of the experiment has a whole quality record with these figures.
    """
    asked = load(experiment)
    there = any(record.find(experiment, row.name, kind) for row in asked.rows for kind in record.KINDS)
    rows = flat_rows(asked) if there else []
    for row in rows:
        if row.get("n_done") != row.get("n_asked"):
            partial = f"row '{row['row']}' has {row['n_done']} of {row['n_asked']} images"
            print(f"postdiff: {experiment}: {partial} and is left out", file=sys.stderr)
    whole = [row for row in rows if row.get("n_done") and row["n_done"] == row["n_asked"]]
    found = [row for row in whole if all(row.get(key) is not None for key in needed)]
    if not found:
        figures = f" that gives {' and '.join(needed)}" if needed else ""
        remedy = f"make one with 'postdiff run {experiment} model=emoji data=emoji'"
        raise UsageError(f"experiment {experiment} has no whole quality record{figures}; {remedy}")
    return found


def named(rows: Sequence[FlatRow], pattern: str) -> list[FlatRow]:
    """Those rows whose whole name fits the regular expression."""
    return [row for row in rows if re.fullmatch(pattern, row["row"])]


def spans(fewer: Sequence[FlatRow], cheaper: Sequence[FlatRow], metric: str) -> list[tuple[float, float, bool]]:
    """Where one curve over the MACs saving is at least as good as another; both are straight between their points.

    Returns:
        Pieces of the savings that both curves cover, in order: from, to, and whether `cheaper` is at least as good as
        `fewer` there. Empty if the curves have no stretch in common.
    """
    curves = []
    for rows in (fewer, cheaper):
        known = [(row["macs_saving"], row[metric]) for row in rows if None not in (row["macs_saving"], row.get(metric))]
        if not known:
            return []
        curves.append(list(zip(*sorted(known), strict=True)))
    start, end = max(savings[0] for savings, _ in curves), min(savings[-1] for savings, _ in curves)
    sign = 1 if facts(metric).higher_is_better else -1

    def gain(saving: float) -> float:
        return sign * float(np.interp(saving, *curves[1]) - np.interp(saving, *curves[0]))

    knots = [start, *sorted({at for savings, _ in curves for at in savings if start < at < end}), end]
    found: list[tuple[float, float, bool]] = []
    for left, right in itertools.pairwise(knots):
        before, after = gain(left), gain(right)
        meeting = [left + (right - left) * before / (before - after)] if before * after < 0 else []
        for begins, ends in zip([left, *meeting], [*meeting, right], strict=True):
            good = gain((begins + ends) / 2) >= 0
            if found and found[-1][2] == good:
                begins, *_ = found.pop()
            found.append((begins, ends, good))
    return found if start < end else []
