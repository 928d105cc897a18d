"""The formula of DBCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, blocks_of, extrapolated, relative, streams

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """h_t = x_t + r_t + R while |r_t - r_k| / |r_k| < delta, r what the front adds, R what the middle added till k."""
    blocks, r = blocks_of(run.network), {}
    ks: dict[str, list[int]] = {}
    front, middle = blocks[: method.front], blocks[method.front : len(blocks) - method.back]

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "front":
            r[b, t] = streams(front[-1], y[b][t])[0] - x[b][t][0]
            return y[b][t]
        done = [k for k in ks.get(b, []) if k in y[b]]
        left_out = [s for s in y[b] if s < t and s not in done]
        in_a_row = [s for s in left_out if s > done[-1]]
        if (
            (done and method.warmup <= t < run.steps - method.last)
            and (method.most < 0 or len(left_out) < method.most)
            and (method.in_a_row < 0 or len(in_a_row) < method.in_a_row)
            and (method.threshold >= 1 or relative(r[b, t], r[b, done[-1]]) < method.threshold)
        ):
            return extrapolated(middle[-1], x[b], y[b], done, t, method.order)
        ks[b] = [*done, t]
        return y[b][t]

    return Reference({"front": (front[0], front[-1]), "middle": (middle[0], middle[-1])}, value)
