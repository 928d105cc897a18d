"""The denoising loop inside a pipeline call, timed apart: without text encoder and decoder, as papers report it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from postdiff.cost.moments import Moments, moments_of
from postdiff.engine.intercept import intercept

__all__ = ["LoopClock", "loop_clock"]

Pair = tuple[Any, Any]


@dataclass
class _Loop:
    moments: Moments
    first: Any
    last: Any


@dataclass
class LoopClock:
    """Seconds of the loops of one call. Nothing waits for a GPU at any step, but whoever reads them does."""

    _loops: list[_Loop] = field(default_factory=list)

    def begin(self, moments: Moments) -> None:
        """A loop begins now."""
        moment = moments.now()
        self._loops.append(_Loop(moments, moment, moment))

    def step(self) -> None:
        """A solver step is over now."""
        if self._loops:
            self._loops[-1].last = self._loops[-1].moments.now()

    @property
    def seconds(self) -> float | None:
        """All loops together; None if there was none."""
        for loop in self._loops:
            loop.moments.wait()
        return sum(loop.moments.seconds(loop.first, loop.last) for loop in self._loops) if self._loops else None


@contextmanager
def loop_clock(loops: Iterable[Pair]) -> Iterator[LoopClock]:
    """Watch a call: a loop lasts from the opening of its pipeline's progress bar to the end of its last solver step.

    Every pipeline of diffusers opens that bar just before its loop, shown or not.

    Args:
        loops: (pipeline, its scheduler during the call) of every pipeline that runs.
    """
    clock = LoopClock()
    with ExitStack() as stack:
        for pipe, scheduler in loops:
            stack.enter_context(intercept(pipe, "progress_bar", _before(partial(clock.begin, moments_of(pipe)))))
            stack.enter_context(intercept(scheduler, "step", _after(clock.step)))
        yield clock


# Plain closures, not methods: a pipeline may copy its scheduler (see `intercept`).
def _before(report: Callable[[], None]) -> Callable[..., Any]:
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        report()
        return original(*args, **kwargs)

    return around


def _after(report: Callable[[], None]) -> Callable[..., Any]:
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        report()
        return result

    return around
