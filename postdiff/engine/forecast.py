"""A cache that extrapolates: what a module would give out now, by finite differences of its past outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from postdiff.engine.cache import CacheEntry, ModuleCache, Place
from postdiff.engine.ownership import own
from postdiff.engine.rows import join_rows, rows_of_step, split_rows
from postdiff.engine.state import State

__all__ = ["ForecastCache"]

Tensors = list[Tensor]
Factors = list[Tensors]


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

    def _replayed(self, entry: CacheEntry, state: State) -> Tensors:
        if state.span == 1:
            return _series(entry.value, state.index - entry.written)
        steps = range(state.index, state.index + state.span)
        forecast: Tensors = join_rows([_series(entry.value, step - entry.written) for step in steps])
        return forecast

    def _write(self, place: Place, state: State, output: Any) -> None:
        tensors, form = self._kept(place, state, output)
        labels, parts = self._labels(place, state), len(state.branches)
        for i in range(self._steps(state)):  # a call that serves several steps gives a difference between each two
            fresh, step = split_rows(rows_of_step(tensors, parts, state.span, i), len(labels)), state.index + i
            for label, value in zip(labels, fresh, strict=True):
                key = (place, state.size, label)
                self._entries[key] = CacheEntry(self._factors(self._entries.get(key), value, step), step, form)

    def _factors(self, past: CacheEntry | None, value: Tensors, step: int) -> Factors:
        factors = [value]
        if past is not None and step > past.written and _shapes(past.value[0]) == _shapes(value):
            distance = step - past.written
            for old in past.value[: self.order]:
                factors.append([(now - then) / distance for now, then in zip(factors[-1], old, strict=True)])
        return factors

    def _together(self, values: list[Factors]) -> Factors:
        return [join_rows(list(each)) for each in zip(*values, strict=False)]


def _series(factors: Factors, x: int) -> Tensors:
    if len(factors) == 1:
        return own(factors[0])
    return [_sum(terms, x) for terms in zip(*factors, strict=True)]


def _sum(terms: tuple[Tensor, ...], x: int) -> Tensor:
    total = terms[0]
    for j, term in enumerate(terms[1:], 1):
        total = total + term * (x**j / math.factorial(j))
    return total


def _shapes(tensors: Tensors) -> list[Any]:
    return [tensor.shape for tensor in tensors]
