"""The formulas of caches of the whole network: x_t is what it is given at step t, y_t what it computes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tests.references.parts import alone, computed, continued
from tests.references.slow_run import Past, Reference, Setting

__all__ = ["adaptive_diffusion", "easy_cache", "spectrum", "step_mask"]


def whole(run: Setting) -> dict[str, tuple[nn.Module, nn.Module]]:
    return alone({"network": run.network})


def added(x: dict[int, Any], y: dict[int, Any], k: int, t: int) -> Tensor:
    """x_t + (y_k - x_k) in the channels that both have; y_k in what the output has beyond them."""
    now, then, given = x[t][0], x[k][0], y[k]
    if now.shape == given.shape:  # tokens, too
        return now + (given - then)
    c = min(now.shape[1], given.shape[1])
    return torch.cat([now[:, :c] + (given[:, :c] - then[:, :c]), given[:, c:]], 1)


def step_mask(method: Any, run: Setting) -> Reference:
    """y_k, x_t + (y_k - x_k), or y_k continued by its first divided differences; k the last step of the mask."""
    masks = {"medium": [0, 1, 4, 5]}  # 28 steps' at the places 0, 5, 11, 16, 22, 27, nearest to those of six
    due = masks[method.computed] if isinstance(method.computed, str) else method.computed
    if method.fill in ("linear", "quadratic"):
        return continued(whole(run), due, ("linear", "quadratic").index(method.fill) + 1)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        k = computed(due, y[b])[-1]
        return added(x[b], y[b], k, t) if method.fill == "residual" and k != t else y[b][k]

    return Reference(whole(run), value)


def magnitude(tensor: Tensor) -> float:
    return tensor.abs().mean().item()


def easy_cache(method: Any, run: Setting) -> Reference:
    """x_t + R_k while sum_i g |x_i - x_(i-1)| / |y_k| < delta; g = |y_k - y_j| / |x_k - x_j|, j computed before k.

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
        k = ks[-1]
        return y[b][k] if k == t or method.replay == "output" else added(x[b], y[b], k, t)

    return Reference(whole(run), value)


def moment(when: float, run: Setting) -> int:
    return int(when * run.steps + 0.5) if isinstance(when, float) else int(when)


def spectrum(method: Any, run: Setting) -> Reference:
    """w phi(t) C + (1 - w) (y_k + (t - k) (y_k - y_j) / (k - j)), C the ridge regression of y on Chebyshev's T_m."""
    due, window, gap = [], method.interval, 1
    for t in range(run.steps):
        if t < method.warmup or gap % int(window) == 0 or t >= run.steps - method.last:
            window += method.growth * (t >= method.warmup)
            due, gap = [*due, t], 1
        else:
            gap += 1

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        ks = computed(due, y[b])[-(method.history or run.steps) :]
        k, degree = ks[-1], min(method.degree, len(ks) - 1)
        if k == t:
            return y[b][t]

        def phi(step: int) -> list[float]:
            tau = 2 * step / (run.steps if method.intercept == "free" else 50) - 1
            return [math.cos(m * math.acos(tau)) for m in range(degree + 1)]

        table = torch.tensor([phi(each) for each in ks], dtype=torch.float64)
        ridge = method.ridge * torch.eye(degree + 1, dtype=torch.float64)
        ridge[0, 0] *= method.intercept == "penalised"
        past = torch.stack([y[b][each].double().flatten() for each in ks])
        fit = torch.linalg.inv(table.T @ table + ridge) @ table.T @ past
        forecast = torch.tensor(phi(t), dtype=torch.float64) @ fit
        line = past[-1] if len(ks) < 2 else past[-1] + (t - k) / (k - ks[-2]) * (past[-1] - past[-2])
        return (method.blend * forecast + (1 - method.blend) * line).view_as(y[b][k]).to(y[b][k].dtype)

    return Reference(whole(run), value)


def adaptive_diffusion(method: Any, run: Setting) -> Reference:
    """y_k while |(D_(t-1) + D_(t-3)) / 2 - D_(t-2)| <= delta D_(t-2), D_i = |x_(i+1) - x_i| around the solver."""
    changes: list[float] = []
    ks: list[int] = []
    skips: list[int] = []

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if t not in (*ks[-1:], *skips[-1:]):
            skip = ks[-1:] != [] and ks[-1] in y["cond"] and method.warmup <= t < run.steps - method.last
            if skip:
                first, second, third = changes[t - 3 : t]
                skip = abs((first + third) / 2 - second) <= method.threshold * second
                skip = skip and len([s for s in skips if s > ks[-1]]) < method.most
            (skips if skip else ks).append(t)
        return y[b][ks[-1]]

    return Reference(whole(run), value, moved=lambda x, after: changes.append(magnitude(after - x)))
