"""A metric that is the mean of one figure per picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["PerImageMetric"]


class PerImageMetric(Metric):
    """Mean over pictures, summed in float64; the figures of the last batch stay readable for the per-image CSV.

    Attributes:
        last: figures of the last `update`, shape (B,), on the CPU.
        resamples: how many times whoever keeps the figures should draw them anew for an interval.
    """

    full_state_update = False
    is_differentiable = False
    sums: Any
    count: Tensor
    resamples = 0

    def __init__(self) -> None:
        super().__init__()
        # One of each batch: added up in their order, they give the same bits on many devices as on one.
        self.add_state("sums", [], dist_reduce_fx="cat")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.last = torch.empty(0)

    def add(self, figures: Tensor) -> None:
        """Take in one figure per picture, shape (B,)."""
        figures = figures.detach()
        self.last = figures.cpu()
        self.sums.append(figures.double().sum().reshape(1))
        self.count += figures.numel()

    def compute(self) -> Tensor:
        """The mean, a float64 scalar; NaN when there was no picture."""
        total = torch.zeros((), dtype=torch.float64, device=self.count.device)
        for batch in self.sums:  # a list, or once they are joined a tensor
            total = total + batch.squeeze()
        return total / self.count

    def identity(self) -> dict[str, Any]:
        """What a reader must know to compare the value with another one."""
        raise NotImplementedError
