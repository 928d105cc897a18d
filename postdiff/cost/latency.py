"""Time of a call, measured so that two methods can be compared: warm, synchronised, interleaved.

Absolute times belong to one machine at one moment; compare ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from postdiff.engine.errors import UsageError

__all__ = ["Latency", "measure"]


@dataclass(frozen=True)
class Latency:
    """Seconds a call: median and quartiles over `repeats` timed calls."""

    median_s: float
    q25_s: float
    q75_s: float
    repeats: int


def measure(
    calls: Mapping[str, Callable[[], object]],
    warmup: int = 1,
    repeats: int = 5,
    progress: Callable[[], object] | None = None,
) -> dict[str, Latency]:
    """Time several calls in turn, round by round, so that drift of the machine falls on all of them alike.

    Args:
        calls: {name: what to time}.
        warmup: untimed rounds first; a method must be warm itself, since it changes which kernels run.
        repeats: timed rounds, at least 1.
        progress: called after every single call, timed or not.

    Raises:
        UsageError: `repeats` below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise UsageError(f"latency needs repeats >= 1 and warmup >= 0, not {repeats} and {warmup}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        for name, call in calls.items():
            _synchronise()
            begin = time.perf_counter()
            call()
            _synchronise()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - begin)
            if progress is not None:
                progress()
    return {name: _summary(times) for name, times in seconds.items()}


def _summary(times: list[float]) -> Latency:
    q25, median, q75 = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return Latency(median, q25, q75, len(times))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
