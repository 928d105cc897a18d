"""Fills: what stands in for a piece's output at a step at which it is not computed.

In the formulas y_k is what the piece gave out at step k, the last that was computed, and x_k what it was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from postdiff.engine.ownership import own

__all__ = ["Fill", "Hold", "Residual", "Taylor", "TaylorResidual", "Weighted"]

Tensors = list[Tensor]


class Fill:
    """How an output is kept and given again; `keep` is handed tensors that nobody else writes to.

    Attributes:
        of_input: reads what the piece is given.
        recalls: what is kept depends on what was kept before.
    """

    of_input: ClassVar[bool] = False
    recalls: ClassVar[bool] = False

    def keep(self, past: Any, x: Tensors, y: Tensors, step: int) -> Any:
        """What to keep of a step's output y, in tuples and lists; `past` was kept before, None if nothing was."""
        raise NotImplementedError

    def give(self, kept: Any, x: Tensors, step: int) -> Tensors:
        """What stands in for the output at a later step, in tensors that may be written into."""
        raise NotImplementedError


class Hold(Fill):
    """y_k."""

    def keep(self, past: Any, x: Tensors, y: Tensors, step: int) -> Tensors:
        return y

    def give(self, kept: Tensors, x: Tensors, step: int) -> Tensors:
        return own(kept)


class Residual(Fill):
    """x_t + (y_k - x_k), in the channels that both have; what the output has beyond them is y_k."""

    of_input: ClassVar[bool] = True

    def keep(self, past: Any, x: Tensors, y: Tensors, step: int) -> Tensors:
        return [_plus(after, before, -1) for before, after in zip(x, y, strict=True)]

    def give(self, kept: Tensors, x: Tensors, step: int) -> Tensors:
        return [_plus(added, now, 1) for now, added in zip(x, kept, strict=True)]


def _plus(tensor: Tensor, other: Tensor, sign: int) -> Tensor:
    if tensor.shape == other.shape:
        return tensor + other if sign > 0 else tensor - other
    total, shared = tensor.clone(), min(tensor.shape[1], other.shape[1])
    total[:, :shared] += sign * other[:, :shared]
    return total


@dataclass(frozen=True)
class Taylor(Fill):
    """y_k + F_1 s + F_2 s^2 / 2! + ..., s = t - k; F_(j+1) is the divided difference of the last two F_j, F_0 = y.

    Args:
        order: highest j.
    """

    order: int
    recalls: ClassVar[bool] = True

    def keep(self, past: Any, x: Tensors, y: Tensors, step: int) -> tuple[int, list[Tensors]]:
        factors = [y]
        if past is not None and step > past[0] and _shapes(past[1][0]) == _shapes(y):
            for old in past[1][: self.order]:
                distance = step - past[0]
                factors.append([(now - then) / distance for now, then in zip(factors[-1], old, strict=True)])
        return step, factors

    def give(self, kept: tuple[int, list[Tensors]], x: Tensors, step: int) -> Tensors:
        written, factors = kept
        total = factors[0] if len(factors) > 1 else own(factors[0])
        for j, factor in enumerate(factors[1:], 1):
            share = (step - written) ** j / math.factorial(j)
            total = [tensor + each * share for tensor, each in zip(total, factor, strict=True)]
        return total


@dataclass(frozen=True)
class TaylorResidual(Taylor):
    """x_t + the series of y_k - x_k; channels that the output has beyond the input's follow a series of their own."""

    of_input: ClassVar[bool] = True

    def keep(self, past: Any, x: Tensors, y: Tensors, step: int) -> Any:
        return super().keep(past, [], Residual().keep(None, x, y, step), step)

    def give(self, kept: Any, x: Tensors, step: int) -> Tensors:
        return Residual().give(super().give(kept, [], step), x, step)


@dataclass(frozen=True)
class Weighted(Fill):
    """sum_k a_k y_k over the last computed steps.

    Args:
        weights: (computed steps, oldest first; t) -> a_k of each.
        most: steps that are kept.
    """

    weights: Callable[[Sequence[int], int], Sequence[float]]
    most: int
    recalls: ClassVar[bool] = True

    def keep(self, past: Any, x: Tensors, y: Tensors, step: int) -> list[tuple[int, Tensors]]:
        return [*(past or []), (step, y)][-self.most :]

    def give(self, kept: list[tuple[int, Tensors]], x: Tensors, step: int) -> Tensors:
        weights = self.weights([written for written, _ in kept], step)
        found = []
        for tensors in zip(*(y for _, y in kept), strict=True):
            wide = torch.promote_types(tensors[0].dtype, torch.float32)
            total = sum(weight * tensor.to(wide) for weight, tensor in zip(weights, tensors, strict=True))
            found.append(total.to(tensors[0].dtype))
        return found


def _shapes(tensors: Tensors) -> list[Any]:
    return [tensor.shape for tensor in tensors]
