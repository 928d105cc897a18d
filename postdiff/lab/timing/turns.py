"""Which rows are timed in turns with which, and how long all of them may take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from postdiff.cost.time_limit import TimeIsUp, TimeLimit
from postdiff.lab.plan import Plan, same_weights

__all__ = ["compared", "limit_of", "told"]


def compared(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Jobs in groups whose times are compared: of the same weights and batch size, in order of appearance."""
    return [group for alike in same_weights(plans) for group in _by_batch_size(alike)]


def limit_of(plans: Sequence[Plan]) -> TimeLimit:
    """The time that all of them have together, from now on: the longest that one of them is given."""
    given = [plan.config.bench.seconds for plan in plans if plan.config.bench.seconds is not None]
    return TimeLimit(max(given, default=None))


@contextmanager
def told(plans: Sequence[Plan], limit: TimeLimit, groups: int) -> Iterator[None]:
    """Say of rows that do not get through one round which they are, and how much time would do.

    Args:
        plans: the rows.
        limit: of these and all others.
        groups: as many share what is left of it.

    Raises:
        TimeIsUp: in the place of one that names no rows.
    """
    before = limit.gone
    try:
        yield
    except TimeIsUp as error:
        error.args = (
            f"row '{plans[0].name}'"
            + (f" and the {len(plans) - 1} in turns with it" if len(plans) > 1 else "")
            + f": nothing was measured, since one round does not end in {error.had:.3g} s; use "
            f"bench.seconds={math.ceil(before + groups * error.enough)}, or fewer --rows",
        )
        raise


def _by_batch_size(plans: Sequence[Plan]) -> Iterator[list[Plan]]:
    for size in dict.fromkeys(plan.config.bench.batch_size for plan in plans):
        yield [plan for plan in plans if plan.config.bench.batch_size == size]
