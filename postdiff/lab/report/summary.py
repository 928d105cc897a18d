"""What the numbers of an experiment say, in sentences: each row beside plain fewer steps of equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log

from postdiff.lab.tables.rows import FlatRow
from postdiff.metrics import facts

__all__ = ["beside_plain", "sentences"]


def sentences(rows: Sequence[FlatRow], plain: set[str], metrics: Sequence[str]) -> list[str]:
    """The row that saves most and the row nearest to the references, each beside plain fewer steps of equal cost.

    Args:
        rows: measured ones, the first is what the others are compared with.
        plain: names of rows without methods.
        metrics: names, the leading one first.

    Returns:
        Sentences of about 30 words; none if there is nothing to compare.
    """
    if len(rows) < 2 or not metrics:
        return []
    metric, found = metrics[0], list[str]()
    info = facts(metric)
    candidates = [row for row in rows[1:] if row["row"] not in plain and row.get(metric) is not None]
    counted = [row for row in candidates if (row.get("macs_saving") or 0) > 1]
    if not counted:
        return [f"No row saves work beside {rows[0]['label']}."] if candidates else []
    cheapest = max(counted, key=lambda row: row["macs_saving"])
    best = (max if info.higher_is_better else min)(counted, key=lambda row: row[metric])
    for row, role in ((cheapest, "saves most"), (best, f"is best by {info.title} among the rows that save work")):
        if row is best and row is cheapest and found:
            continue
        text = (
            f"{row['label']} {role}: {row['macs_saving']:.2f} times less work than {rows[0]['label']}, "
            f"{info.title} {row[metric]:.{info.digits}f}"
        )
        beside = beside_plain(row, rows, plain, metric)
        if beside is None:
            found.append(f"{text}; no plain rows enclose its cost, so fewer steps of equal cost are not known.")
            continue
        better = (row[metric] > beside) == info.higher_is_better
        spread = row.get(f"{metric}_spread") or 0
        verdict = "a tie" if abs(row[metric] - beside) <= spread else f"{'better' if better else 'worse'} than that"
        found.append(
            f"{text}; plain fewer steps of equal work are at about {beside:.{info.digits}f}, so it is {verdict}."
        )
    return found


def beside_plain(row: FlatRow, rows: Sequence[FlatRow], plain: set[str], metric: str) -> float | None:
    """What plain fewer steps of a row's MACs would score, on the line between the two plain rows around it.

    The line is straight in the logarithm of the MACs. None if no two plain rows of the same model enclose the row.
    """
    known = sorted(
        (one["macs_g"], one[metric])
        for one in rows
        if one["row"] in plain and one["model"] == row["model"] and one.get("macs_g") and one.get(metric) is not None
    )
    at = row.get("macs_g")
    for (low, left), (high, right) in pairwise(known):
        if at is not None and low <= at <= high and low < high:
            share = (log(at) - log(low)) / (log(high) - log(low))
            return left + share * (right - left)
    return None
