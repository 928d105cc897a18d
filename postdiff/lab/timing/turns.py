"""Which rows are timed in turns with which, and how long all of them may take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from postdiff.cost.time_limit import TimeIsUp, TimeLimit
from postdiff.lab.job import Job, same_weights

__all__ = ["compared", "limit_of", "told"]


def compared(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in groups whose times are compared: of the same weights and batch size, in order of appearance."""
    return [group for alike in same_weights(jobs) for group in _by_batch_size(alike)]


def limit_of(jobs: Sequence[Job]) -> TimeLimit:
    """The time that all of them have together, from now on: the longest that one of them is given."""
    given = [job.config.bench.seconds for job in jobs if job.config.bench.seconds is not None]
    return TimeLimit(max(given, default=None))


@contextmanager
def told(jobs: Sequence[Job], limit: TimeLimit, groups: int) -> Iterator[None]:
    """Say of rows that do not get through one round which they are, and how much time would do.

    Args:
        jobs: the rows.
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
            f"row '{jobs[0].name}'"
            + (f" and the {len(jobs) - 1} in turns with it" if len(jobs) > 1 else "")
            + f": nothing was measured, since one round does not end in {error.had:.3g} s; use "
            f"bench.seconds={math.ceil(before + groups * error.enough)}, or fewer --rows",
        )
        raise


def _by_batch_size(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    for size in dict.fromkeys(job.config.bench.batch_size for job in jobs):
        yield [job for job in jobs if job.config.bench.batch_size == size]
