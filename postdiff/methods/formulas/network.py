"""The whole network: x_t is what it is given at step t, y_t what it computes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from postdiff.methods.formulas.parts import alone, series
from postdiff.methods.formulas.run import Setting

__all__ = ["added", "filled", "forecast", "magnitude", "whole"]


def whole(run: Setting) -> dict[str, tuple[nn.Module, nn.Module]]:
    return alone({"network": run.network})


def added(x: dict[int, Any], y: dict[int, Any], k: int, t: int) -> Tensor:
    """x_t + (y_k - x_k) in the channels that both have; y_k in what the output has beyond them."""
    now, then, given = x[t][0], x[k][0], y[k]
    if now.shape == given.shape:  # tokens, too
        return now + (given - then)
    c = min(now.shape[1], given.shape[1])
    return torch.cat([now[:, :c] + (given[:, :c] - then[:, :c]), given[:, c:]], 1)


def filled(fill: str, x: dict[int, Any], y: dict[int, Any], ks: list[int], t: int, run: Setting) -> Any:
    """y_k, x_t + (y_k - x_k), y_k continued by its divided differences, or Spectrum's forecast by its defaults."""
    ks = [k for k in ks if k in y]
    if ks[-1] == t:
        return y[t]
    if fill == "residual":
        return added(x, y, ks[-1], t)
    if fill == "chebyshev":
        return forecast([(k, y[k]) for k in ks], t, run.steps)
    return series([y[k] for k in ks], ks, t, ("output", "linear", "quadratic").index(fill))


def forecast(
    seen: list[tuple[int, Tensor]],
    t: int,
    spread: int,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    free: bool = True,
) -> Tensor:
    """The regression on what was seen at steps, for the step t, and the line through the last two."""
    ks, degree = [k for k, _ in seen], min(degree, len(seen) - 1)

    def phi(step: int) -> list[float]:
        return [math.cos(m * math.acos(2 * step / spread - 1)) for m in range(degree + 1)]

    table = torch.tensor([phi(each) for each in ks], dtype=torch.float64)
    penalty = ridge * torch.eye(degree + 1, dtype=torch.float64)
    penalty[0, 0] *= not free
    past = torch.stack([y.double().flatten() for _, y in seen])
    found = torch.tensor(phi(t), dtype=torch.float64) @ torch.linalg.inv(table.T @ table + penalty) @ table.T @ past
    line = past[-1] if len(ks) < 2 else past[-1] + (t - ks[-1]) / (ks[-1] - ks[-2]) * (past[-1] - past[-2])
    return (blend * found + (1 - blend) * line).view_as(seen[-1][1]).to(seen[-1][1].dtype)


def magnitude(tensor: Tensor) -> float:
    return tensor.abs().mean().item()
