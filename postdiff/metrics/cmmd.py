"""CMMD: squared MMD between CLIP features of generated and of real pictures, with a Gaussian kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from postdiff.metrics.extractor import Extractor
from postdiff.metrics.features import FeatureMetric
from postdiff.metrics.real import Real

__all__ = ["CMMD", "gaussian_mmd"]

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


class CMMD(FeatureMetric):
    """CLIP maximum mean discrepancy.

    Args:
        extractor: a CLIP model's picture tower; the authors' is ViT-L/14 at 336 pixels.
        real: features of the real pictures.
        resamples: see `FeatureMetric`.

    Reference:
        Jayasumana et al., "Rethinking FID", CVPR 2024, arXiv:2401.09603. Pictures go through the model's own processor
        (centre crop included), where the authors resize to the full square; for square pictures this is the same.
    """

    higher_is_better = False
    real: Real

    def __init__(self, extractor: Extractor, real: Real, resamples: int = 0) -> None:
        super().__init__(extractor, real, resamples)

    def figure(self, features: Tensor | None) -> Tensor:
        assert features is not None
        return gaussian_mmd(self.real.features.to(features.device), features)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "kernel": f"gaussian, sigma {SIGMA:g}, times {SCALE:g}, biased"}
