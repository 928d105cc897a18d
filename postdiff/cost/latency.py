"""Time of a call, measured so that two methods can be compared: warm, synchronised, interleaved.

Absolute times belong to one machine at one moment; compare ratios, and those round by round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from postdiff.cost.loop_clock import loop_clock
from postdiff.engine.errors import UsageError

__all__ = ["Latency", "Rounds", "Timed", "measure", "ratio", "seconds"]


@dataclass(frozen=True)
class Timed:
    """Something to time.

    Attributes:
        run: what is timed.
        ready: opened before the clock starts and closed after it has stopped: what prepares one call and undoes it.
        loops: (pipeline, its scheduler) of the pipelines whose denoising loops are timed as well.
    """

    run: Callable[[], object]
    ready: Callable[[], AbstractContextManager[Any]] = nullcontext
    loops: Sequence[tuple[Any, Any]] = ()


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


@dataclass
class Rounds:
    """Seconds of every timed call, in order.

    Attributes:
        whole: of the whole call.
        loop: of its denoising loops alone; empty if it has none.
    """

    whole: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)


def ratio(first: Sequence[float], own: Sequence[float]) -> Latency:
    """How many times faster `own` is than `first`, round by round: what slows both down cancels.

    Args:
        first: seconds, one a round.
        own: seconds of the same rounds.
    """
    return Latency.of([one / other for one, other in zip(first, own, strict=True)])


def measure(
    calls: Mapping[str, Timed],
    warmup: int = 1,
    repeats: int = 5,
    progress: Callable[[], object] | None = None,
) -> dict[str, Rounds]:
    """Time several calls in turn, round by round, so that drift of the machine falls on all of them alike.

    Every other round goes backwards: what a call leaves behind, a warm cache or a hot chip, then meets both neighbours.

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
    found = {name: Rounds() for name in calls}
    for turn in range(warmup + repeats):
        for name in list(calls) if turn % 2 == 0 else reversed(list(calls)):
            whole, loop = _once(calls[name])
            if turn >= warmup:
                found[name].whole.append(whole)
                if loop is not None:
                    found[name].loop.append(loop)
            if progress is not None:
                progress()
    return found


def _once(call: Timed) -> tuple[float, float | None]:
    with call.ready(), loop_clock(call.loops) as clock:
        return seconds(call.run), clock.seconds


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes, all that it puts in a GPU's queue included."""
    _synchronise()
    begin = time.perf_counter()
    call()
    _synchronise()
    return time.perf_counter() - begin


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
