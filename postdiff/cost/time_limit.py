"""A stretch of time that measuring must keep within."""

from __future__ import annotations

import math
import time

from postdiff.engine.errors import UsageError

__all__ = ["TimeIsUp", "TimeLimit"]


class TimeIsUp(UsageError):
    """Not one round is whole.

    Attributes:
        had: seconds that there were.
        enough: seconds that would be, as far as one can tell.
    """

    def __init__(self, had: float, enough: int) -> None:
        self.had, self.enough = had, enough
        super().__init__(
            f"nothing was measured: one round does not end in {had:.3g} s; {enough} s would do, or fewer rows"
        )


class TimeLimit:
    """Begins when it is made.

    Args:
        seconds: how long it lasts; None: for ever.

    Attributes:
        begin: when it began, on the clock of `time.perf_counter`.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.begin = time.perf_counter()

    @property
    def gone(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.begin

    @property
    def left(self) -> float:
        """Seconds until it ends; below 0 once it has."""
        return self.seconds - self.gone

    def part(self, of: int) -> TimeLimit:
        """An equal part of what is left, which begins now.

        Args:
            of: how many parts are still to come, this one included.
        """
        return TimeLimit(self.left / of)

    def need(self, more: float) -> None:
        """Give up early what can hardly become whole any more.

        Args:
            more: seconds that are still needed, as far as one can tell from what was seen.

        Raises:
            TimeIsUp: not even half of them are left.
        """
        if self.left < more / 2:
            raise TimeIsUp(self.seconds, math.ceil(1.25 * (self.gone + more)))  # what was not seen may take longer
