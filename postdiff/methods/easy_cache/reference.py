"""The formula of EasyCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, filled, magnitude, whole

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """What stands in while sum_i g |x_i - x_(i-1)| / |y_k| < delta; g = |y_k - y_j| / |x_k - x_j|, j computed before k.

    The distance to x_k in the place of that to x_(i-1); the output or the geometric mean with its usual change.
    """
    first, last = moment(method.warmup, run), run.steps - moment(method.last, run)
    ks: list[int] = []
    skips: list[int] = []
    total = [0.0]

    def left_out(t: int, x: dict[int, Any], y: dict[int, Any]) -> bool:
        known = [k for k in ks if k in y and (method.distance == "neighbour" or k >= first)]
        if len(known) < 2 or not first <= t < last:
            return False
        moves = [(magnitude(x[k][0] - x[j][0]), magnitude(y[k] - y[j])) for j, k in pairwise(known)]
        i = known[-1] if method.distance == "computed" else max(s for s in x if s < t)
        change, scale, threshold = magnitude(x[t][0] - x[i][0]), magnitude(y[known[-1]]), method.threshold
        in_row = len([s for s in skips if s > known[-1]])
        if method.scale == "ucache":
            usual = moves[0][1]
            for _, moved in moves[1:]:
                usual = 0.8 * usual + 0.2 * moved
            scale = (scale * 1.6 * usual) ** 0.5 / (1 + in_row / 2)
            share = len([k for k in known if first <= k < last]) / run.steps
            threshold *= 0.5 if share < 0.2 else 1.5 if share > 0.8 else 1.0
        total[0] += moves[-1][1] / moves[-1][0] * change / scale
        return total[0] < threshold and (method.most is None or in_row < method.most)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if t not in (*ks[-1:], *skips[-1:]):
            if left_out(t, x["cond"], y["cond"]):
                skips.append(t)
            else:
                ks.append(t)
                total[0] = 0.0
        return filled(method.replay, x[b], y[b], ks, t, run)

    return Reference(whole(run), value)


def moment(when: float, run: Setting) -> int:
    return int(when * run.steps + 0.5) if isinstance(when, float) else int(when)
