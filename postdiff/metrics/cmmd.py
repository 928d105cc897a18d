"""CMMD: squared MMD between CLIP features of generated and of reference images, with a Gaussian kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.metrics.base import check_ranges
from postdiff.metrics.features import MOST_SIDE, FeatureMetric
from postdiff.metrics.reference import ReferenceStatistics

__all__ = ["CMMD", "CMMDOptions", "gaussian_mmd"]

SIGMA, SCALE = 10.0, 1000.0
ROWS = 4096


def gaussian_mmd(real: Tensor, generated: Tensor) -> Tensor:
    """1000 x the squared MMD of unit features (N, d) and (M, d), kernel exp(-|x - y|^2 / 200); biased, as published."""
    x, y = real.double(), generated.double()
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in x.split(ROWS):
        squared = part.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * part @ y.T
        total += torch.exp(-squared / (2 * SIGMA**2)).sum()
    return total / (len(x) * len(y))


@dataclass
class CMMDOptions:
    """CMMD.

    Attributes:
        model: CLIP folder or repository of the hub; null means the authors' ViT-L/14 at 336 pixels.
        reference: name of the data, or statistics file, to compare with; null means the row's own data.
        crop: of the reference images, as `postdiff data statistics --crop` was given; null means none.
    """

    model: str | None = None
    reference: str | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, crop=(1, MOST_SIDE))


class CMMD(FeatureMetric):
    """1000 x squared MMD to reference images in CLIP features; needs its weights and 'postdiff data statistics'.

    CLIP maximum mean discrepancy.

    Reference:
        Jayasumana et al., "Rethinking FID", CVPR 2024, arXiv:2401.09603. Images go through the model's own processor
        (centre crop included), where the authors resize to the full square; for square images this is the same.
    """

    title = "CMMD"
    higher_is_better = False
    digits = 3
    least = 2
    mode = "clip"
    real: ReferenceStatistics
    Options = CMMDOptions

    @classmethod
    def _network(cls, options: Any) -> tuple[str, str | None]:
        return cls.mode, options.model

    def value(self, features: Tensor) -> Tensor:
        assert self.real.features is not None
        return gaussian_mmd(self.real.features.to(features.device), features)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kernel": f"gaussian, sigma {SIGMA:g}, times {SCALE:g}, biased"}
