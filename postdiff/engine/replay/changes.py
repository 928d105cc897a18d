"""Watches that compare what they see with what they saw before: |now - before| / |before|, means over one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from torch import Tensor

from postdiff.engine.replay.rules import Watch
from postdiff.engine.state import State

__all__ = ["Change", "Changes"]


@dataclass
class Change(Watch):
    """Replayed while what is seen has hardly changed since the last computed step.

    Args:
        little: whether a relative change is little.
    """

    little: Callable[[float], bool]

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        return (seen - past.seen).abs().mean() / past.size if past.computed else None

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        return not self.little(measured)

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        past.seen, past.size = seen, seen.abs().mean()


@dataclass
class Changes(Watch):
    """Replayed while the changes from step to step, since the last computed step, add up to little.

    Args:
        threshold: what the sum stays below.
        expected: what a relative change counts.
    """

    threshold: float
    expected: Callable[[float], float] = float

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        before, size = getattr(past, "seen", None), getattr(past, "size", None)
        past.seen, past.size = seen, seen.abs().mean()
        return None if before is None else (seen - before).abs().mean() / size

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        past.total += self.expected(measured)
        return not past.total < self.threshold

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        past.total = 0.0
