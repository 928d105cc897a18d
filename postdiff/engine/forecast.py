"""A cache that extrapolates: what a module would give out now, by finite differences of its past outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from postdiff.engine.cache import Entry, ModuleCache
from postdiff.engine.rows import join_rows, rows_of_step, split_rows
from postdiff.engine.state import State

__all__ = ["ForecastCache"]

Factors = list[Any]


class ForecastCache(ModuleCache):
    """Replays F_0 + F_1 x + F_2 x^2 / 2! + ..., x being the steps that have passed since the last computed one.

    F_0 is the output computed last, F_(j+1) the difference of the last two F_j divided by the steps between them.

    Args:
        name: prefix of the counters in `state.counts`.
        due: as of `ModuleCache`.
        order: highest j; 0 replays the last output.
    """

    def __init__(self, name: str, due: Callable[[int, int], bool], order: int) -> None:
        super().__init__(name, due)
        self.order = order

    def _replayed(self, entry: Entry, state: State) -> Any:
        steps = range(state.index, state.index + state.span)
        return join_rows([_series(entry.value, step - entry.written) for step in steps])

    def _write(self, module: str, state: State, output: Any) -> None:
        parts = len(state.branches)
        for i in range(state.span):  # a call that serves several steps gives a difference between each two
            fresh = split_rows(rows_of_step(output, parts, state.span, i), parts)
            for branch, value in zip(state.branches, fresh, strict=True):
                key = (module, state.size, branch)
                self._entries[key] = Entry(
                    self._factors(self._entries.get(key), value, state.index + i), state.index + i
                )

    def _factors(self, past: Entry | None, value: Any, step: int) -> Factors:
        factors = [value]
        if past is not None and _shapes(past.value[0]) == _shapes(value):
            distance = step - past.written
            for old in past.value[: self.order]:
                factors.append(_each(lambda now, then: (now - then) / distance, factors[-1], old))
        return factors


def _series(factors: Factors, x: int) -> Any:
    total = factors[0]
    for j, factor in enumerate(factors[1:], 1):
        weight = x**j / math.factorial(j)
        total = _each(lambda so_far, term, weight=weight: so_far + term * weight, total, factor)
    return total


def _each(change: Callable[..., Tensor], first: Any, second: Any) -> Any:
    if isinstance(first, Tensor):
        return change(first, second)
    if isinstance(first, tuple | list):
        return type(first)(_each(change, one, other) for one, other in zip(first, second, strict=True))
    return first


def _shapes(value: Any) -> Any:
    return [_shapes(item) for item in value] if isinstance(value, tuple | list) else getattr(value, "shape", None)
