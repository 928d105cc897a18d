"""The formula of Spectrum in the symbols of its paper, without speed and without state."""

from __future__ import annotations

import math
from typing import Any

import torch

from postdiff.methods.formulas import Past, Reference, Setting, computed, whole

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """w phi(t) C + (1 - w) (y_k + (t - k) (y_k - y_j) / (k - j)), C the ridge regression of y on Chebyshev's T_m."""
    due: list[int] = []
    window, gap = method.interval, 1
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
