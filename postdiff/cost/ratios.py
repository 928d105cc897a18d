"""Times of many rounds as one value. Nothing heavy is imported, for tables of records need no more than this."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Latency", "ratio"]


@dataclass(frozen=True)
class Latency:
    """Seconds a call, or a ratio of two: median and quartiles over the timed rounds."""

    median: float
    q25: float
    q75: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency:
        """Of one value a round."""
        q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        return cls(median, q25, q75, len(values))

    def named(self, name: str) -> dict[str, float]:
        """Median and quartiles, as records and tables have them."""
        return {name: self.median, f"{name}_q25": self.q25, f"{name}_q75": self.q75}


def ratio(first: Sequence[float], own: Sequence[float]) -> Latency:
    """How many times faster `own` is than `first`, round by round: what slows both down cancels.

    Args:
        first: seconds, one a round.
        own: seconds of the same rounds.
    """
    return Latency.of([one / other for one, other in zip(first, own, strict=True)])
