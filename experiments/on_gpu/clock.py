"""How the minutes are shared out among stages, so that all of them together keep within."""

from __future__ import annotations

import time
from collections.abc import Sequence

from on_gpu.stages import Stage

__all__ = ["Clock"]

# What stays for the last summary, and for a process that must be ended: a share of the whole, and seconds at most.
SPARE, MOST_SPARE = 0.04, 12.0


class Clock:
    """Begins when it is made.

    Args:
        minutes: how long everything may take.

    Attributes:
        whole: the same in seconds.
    """

    def __init__(self, minutes: float) -> None:
        self.begin, self.whole = time.monotonic(), 60 * minutes

    @property
    def gone(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begin

    @property
    def left(self) -> float:
        """Seconds that stages still have, apart from what is spared for the end."""
        return self.whole - self.gone - self.spare

    @property
    def spare(self) -> float:
        """Seconds that are no stage's."""
        return min(SPARE * self.whole, MOST_SPARE)

    def budget(self, stage: Stage, after: Sequence[Stage]) -> float | None:
        """Seconds for a stage: its share of what is left, and no less than it needs; None if it no longer fits.

        What earlier stages did not use is shared out as well, and the last stage may have all that is left.

        Args:
            stage: the next one.
            after: those that come after it.
        """
        if self.left < stage.least:
            return None
        share = stage.share / (stage.share + sum(one.share for one in after))
        return max(share * self.left, stage.least)
