"""Time of a call, measured so that two methods can be compared: warm, synchronised, interleaved, within a time limit.

Absolute times belong to one machine at one moment; compare ratios, and those round by round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from postdiff.cost.moments import Moments, moments_of, wait
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept

__all__ = ["Rounds", "TimeIsUp", "TimeLimit", "Timed", "measure", "seconds"]


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


@dataclass
class Rounds:
    """Seconds of every timed call, in order.

    Attributes:
        whole: of the whole call.
        loop: of its denoising loops alone; empty if it has none.
    """

    whole: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)


def measure(
    calls: Mapping[str, Timed],
    warmup: int = 1,
    repeats: int = 5,
    progress: Callable[[], object] | None = None,
    limit: TimeLimit | None = None,
) -> dict[str, Rounds]:
    """Time several calls in turn, round by round, so that drift of the machine falls on all of them alike.

    Every other round goes backwards: what a call leaves behind, a warm cache or a hot chip, then meets both neighbours.

    Args:
        calls: {name: what to time}.
        warmup: untimed rounds first; a method must be warm itself, since it changes which kernels run.
        repeats: timed rounds, at least 1.
        progress: called after every single call, timed or not.
        limit: no round begins that would not end in time, going by the slowest so far. Once the time is up no call
            begins, and a round that lacks one does not count.

    Returns:
        The whole rounds, one at least.

    Raises:
        UsageError: `repeats` below 1 or `warmup` below 0.
        TimeIsUp: not one whole round in time.
    """
    if repeats < 1 or warmup < 0:
        raise UsageError(f"latency needs repeats >= 1 and warmup >= 0, not {repeats} and {warmup}")
    limit = limit or TimeLimit()
    found = {name: Rounds() for name in calls}
    slowest = 0.0
    for turn in range(warmup + repeats):
        if turn > warmup and slowest > limit.left:
            break
        begin = limit.gone
        seen = _round(calls, turn, progress, limit, must=turn <= warmup, to_come=max(warmup - turn, 0))
        if len(seen) < len(calls):
            break
        slowest = max(slowest, limit.gone - begin)
        if turn >= warmup:
            for name, (whole, loop) in seen.items():
                found[name].whole.append(whole)
                if loop is not None:
                    found[name].loop.append(loop)
    return found


def _round(
    calls: Mapping[str, Timed],
    turn: int,
    progress: Callable[[], object] | None,
    limit: TimeLimit,
    must: bool,
    to_come: int,
) -> dict[str, tuple[float, float | None]]:
    """Seconds of each call and of its loop; fewer calls if the time is up.

    Args:
        calls: as for `measure`.
        turn: number of the round.
        progress: as for `measure`.
        limit: when the time is up.
        must: whether it has to end in time for anything to be measured.
        to_come: as many further rounds have to, too.
    """
    seen: dict[str, tuple[float, float | None]] = {}
    begin = limit.gone
    for done, name in enumerate(list(calls) if turn % 2 == 0 else reversed(list(calls)), 1):
        seen[name] = _once(calls[name])
        if progress is not None:
            progress()
        to_do = len(calls) - done + to_come * len(calls)
        if must and to_do:
            limit.need((limit.gone - begin) / done * to_do)
        elif to_do and limit.left < 0:
            break
    return seen


@dataclass
class _Loop:
    """A denoising loop without text encoder and decoder, as papers time it."""

    moments: Moments
    first: Any
    last: Any


def _once(call: Timed) -> tuple[float, float | None]:
    """Seconds of a call and of all its loops together, None if it has none. Nothing waits for a GPU at any step.

    A loop lasts from the opening of its pipeline's progress bar, which every pipeline of diffusers opens just before
    it, shown or not, to the end of its last solver step.
    """
    loops: list[_Loop] = []

    # Plain closures, not methods: a pipeline may copy its scheduler (see `intercept`).
    def begin(original: Callable[..., Any], *args: Any, moments: Moments, **kwargs: Any) -> Any:
        moment = moments.now()
        loops.append(_Loop(moments, moment, moment))
        return original(*args, **kwargs)

    def step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if loops:
            loops[-1].last = loops[-1].moments.now()
        return result

    with call.ready(), ExitStack() as stack:
        for pipe, scheduler in call.loops:
            stack.enter_context(intercept(pipe, "progress_bar", partial(begin, moments=moments_of(pipe))))
            stack.enter_context(intercept(scheduler, "step", step))
        whole = seconds(call.run, call.loops[0][0] if call.loops else None)
        for loop in loops:
            loop.moments.wait()
        inner = [loop.moments.seconds(loop.first, loop.last) for loop in loops]
        return whole, sum(inner) if inner else None


def seconds(call: Callable[[], object], pipe: Any = None) -> float:
    """How long one call takes, all that it puts in a GPU's queue included.

    Args:
        call: what is timed.
        pipe: the pipeline whose device does the work; None: the current one.
    """
    wait(pipe)
    begin = time.perf_counter()
    call()
    wait(pipe)
    return time.perf_counter() - begin
