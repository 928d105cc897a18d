"""The whole network: x_t is what it is given at step t, y_t what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from postdiff.methods.formulas.parts import alone
from postdiff.methods.formulas.run import Setting

__all__ = ["added", "magnitude", "whole"]


def whole(run: Setting) -> dict[str, tuple[nn.Module, nn.Module]]:
    return alone({"network": run.network})


def added(x: dict[int, Any], y: dict[int, Any], k: int, t: int) -> Tensor:
    """x_t + (y_k - x_k) in the channels that both have; y_k in what the output has beyond them."""
    now, then, given = x[t][0], x[k][0], y[k]
    if now.shape == given.shape:  # tokens, too
        return now + (given - then)
    c = min(now.shape[1], given.shape[1])
    return torch.cat([now[:, :c] + (given[:, :c] - then[:, :c]), given[:, c:]], 1)


def magnitude(tensor: Tensor) -> float:
    return tensor.abs().mean().item()
