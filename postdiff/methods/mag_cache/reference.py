"""The formula of MagCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

import math
from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, blocks_of, residual

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """x_t + R_k while sum_i |1 - prod_(j<=i) g_j| <= delta, for `most` steps at most, after the retention."""
    blocks = blocks_of(run.network)
    g = method.ratios if isinstance(method.ratios, list) else [method.ratios] * run.steps
    begin = int(method.retention * run.steps + 0.5)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        k = -1
        for i in y[b]:
            products = [math.prod(g[k + 1 : j + 1]) for j in range(k + 1, i + 1)]
            error = sum(abs(1 - product) for product in products)
            if k < 0 or i < begin or error > method.threshold or i - k > method.most:
                k = i
        return y[b][t] if k == t else residual(blocks[-1], x[b], y[b], k, t)

    return Reference({"chain": (blocks[0], blocks[-1])}, value)
