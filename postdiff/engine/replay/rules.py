"""Rules: at which steps a piece is computed.

A rule by steps is a function `due(written, now)`: whether what was kept at step `written` must be computed again at
step `now`. It is one for all images and known beforehand. A rule that looks at features is a `Watch`, which decides
for one image at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor

from postdiff.engine.state import State

__all__ = ["Due", "Watch", "at", "before", "turns"]

Due = Callable[[int, int], bool]


def at(steps: Iterable[int]) -> Due:
    """Computed at these steps; where the piece was not called at one of them, at its next call.

    Not "step modulo interval": after a miss between two listed steps the others stay what they are.
    """
    listed = sorted({*steps})

    def due(written: int, now: int) -> bool:
        passed = bisect_right(listed, now)
        return passed > 0 and listed[passed - 1] > written

    return due


def before(step: int) -> Due:
    """Computed up to this step, exclusive, and never again; where it was not called at the last, an earlier counts."""
    return lambda written, now: now < step


def turns(due: Due, steps: int) -> set[int]:
    """Steps at which computing turns to replaying or back, in a run in which the piece is called at every step."""
    written, computed = 0, [True]
    for now in range(1, steps):
        computed.append(due(written, now))
        written = now if computed[-1] else written
    return {step for step in range(1, steps) if computed[step] != computed[step - 1]}


class Watch:
    """A rule that looks: for one image, in scalars. `past` is that image's notebook, empty at first.

    The first step, and the first at a new size or of a new branch, are computed whatever the rule says.

    Attributes:
        together: what the conditional branch's rule says holds for all branches of the image, once a step; else every
            branch decides by itself.
    """

    together: ClassVar[bool] = False

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        """At every step: a number, a tensor without dimensions, or None to compute without asking `due`.

        Args:
            past: the notebook; its attribute `computed` says whether the image has been computed before, `image` is
                the image's place in the batch.
            seen: what the piece is given, or what it was told to look at; one row.
            state: of the run.
        """
        raise NotImplementedError

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        """Whether to compute; numbers of all images have been read at once."""
        raise NotImplementedError

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        """After the image was computed: y from x, one row each."""
