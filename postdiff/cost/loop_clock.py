"""The denoising loop inside a pipeline call, timed apart: without text encoder and decoder, as papers report it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from postdiff.engine.intercept import intercept

__all__ = ["LoopClock", "loop_clock"]

Pair = tuple[Any, Any]


@dataclass
class LoopClock:
    """Seconds of the loops of one call.

    On a GPU the moments are events in its queue, so that nothing waits at every step. Read it when the call is over and
    the device has been waited for.
    """

    _loops: list[list[Any]] = field(default_factory=list)  # of each loop, its first and its last moment

    def begin(self) -> None:
        """A loop begins now."""
        moment = _moment()
        self._loops.append([moment, moment])

    def step(self) -> None:
        """A solver step is over now."""
        if self._loops:
            self._loops[-1][1] = _moment()

    @property
    def seconds(self) -> float | None:
        """All loops together; None if there was none."""
        return sum(_between(first, last) for first, last in self._loops) if self._loops else None


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
            stack.enter_context(intercept(pipe, "progress_bar", _before(clock.begin)))
            stack.enter_context(intercept(scheduler, "step", _after(clock.step)))
        yield clock


# Plain closures, not methods: a pipeline may copy its scheduler (see `intercept`).
def _before(tell: Callable[[], None]) -> Callable[..., Any]:
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tell()
        return original(*args, **kwargs)

    return around


def _after(tell: Callable[[], None]) -> Callable[..., Any]:
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        tell()
        return result

    return around


def _moment() -> Any:
    if torch.cuda.is_initialized():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter()


def _between(first: Any, last: Any) -> float:
    return first.elapsed_time(last) / 1e3 if isinstance(first, torch.cuda.Event) else last - first
