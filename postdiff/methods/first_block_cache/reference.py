"""The formula of FirstBlockCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, blocks_of, relative, residual, streams

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """h_t = x_t + r_t + R_k while |r_t - r_k| / |r_k| <= delta, r what the first block adds, R what the others add."""
    blocks, r = blocks_of(run.network), {}
    k: dict[str, int] = {}

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "first":
            r[b, t] = streams(blocks[0], y[b][t])[0] - x[b][t][0]
            return y[b][t]
        if b in k and k[b] in y[b] and relative(r[b, t], r[b, k[b]]) <= method.threshold:
            return residual(blocks[-1], x[b], y[b], k[b], t)
        k[b] = t
        return y[b][t]

    return Reference({"first": (blocks[0], blocks[0]), "others": (blocks[1], blocks[-1])}, value)
