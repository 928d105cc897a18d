"""What several formulas are made of. y_t is what a piece computes at step t, k the last step at which it is so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from postdiff.methods.formulas.run import Past, Reference, tensorwise

__all__ = ["alone", "computed", "continued", "hold", "relative", "series"]


def computed(due: Iterable[int], seen: Iterable[int]) -> list[int]:
    """Of the steps at which a piece is called, those at which it is computed: the first, and once one is due.

    A step that is due and at which the piece is not called makes the next call due.
    """
    found: list[int] = []
    for t in seen:
        if not found or any(found[-1] < step <= t for step in due):
            found.append(t)
    return found


def hold(due: Iterable[int]) -> Callable[..., Any]:
    """y_k."""
    due = list(due)
    return lambda name, t, b, x, y: y[b][computed(due, y[b])[-1]]


def alone(modules: dict[str, nn.Module]) -> dict[str, tuple[nn.Module, nn.Module]]:
    return {name: (module, module) for name, module in modules.items()}


def relative(now: Tensor, before: Tensor) -> float:
    """|now - before| / |before|."""
    return ((now - before).abs().mean() / before.abs().mean()).item()


def series(values: list[Any], ks: list[int], t: int, order: int) -> Any:
    """F_k + sum_i F_k^(i) j^i / i!, t = k + j, F^(i+1) the divided difference of the last two F^(i)."""
    total, column = values[-1], values
    for i in range(1, min(order, len(ks) - 1) + 1 if t > ks[-1] else 1):
        gaps = [ks[n] - ks[n - 1] for n in range(i, len(ks))]
        column = [
            tensorwise(lambda new, old, gap=gap: (new - old) / gap, *pair)
            for *pair, gap in zip(column[1:], column[:-1], gaps, strict=True)
        ]
        share = (t - ks[-1]) ** i / math.factorial(i)
        total = tensorwise(lambda y, d, share=share: y + d * share, total, column[-1])
    return total


def continued(pieces: dict[str, tuple[nn.Module, nn.Module]], due: Iterable[int], order: int) -> Reference:
    """The series of each piece."""
    due = list(due)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        ks = computed(due, y[b])
        return series([y[b][k] for k in ks], ks, t, order)

    return Reference(pieces, value)
