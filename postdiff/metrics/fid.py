"""Frechet Inception distance in clean-fid's modes, from sums in float64."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from postdiff.metrics.extractor import Extractor
from postdiff.metrics.features import FeatureMetric
from postdiff.metrics.real import Real

__all__ = ["FID", "frechet_distance", "root"]


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (d, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(mean: Tensor, covariance: Tensor, other: Tensor, other_root: Tensor) -> Tensor:
    """||m1 - m2||^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) of two Gaussians, in float64.

    The trace of the root of S1 S2 is taken from the symmetric matrix R S1 R with R = sqrt(S2), which has the same
    eigenvalues: unlike the root of the product itself this is safe for singular covariances.

    Args:
        mean: (d,).
        covariance: (d, d).
        other: mean of the second one, (d,).
        other_root: symmetric square root of the covariance of the second one, (d, d).
    """
    between = torch.linalg.eigvalsh(other_root @ covariance @ other_root).clamp(min=0).sqrt().sum()
    traces = covariance.trace() + other_root.square().sum()
    return (mean - other).square().sum() + traces - 2 * between


class FID(FeatureMetric):
    """Frechet distance between the features of generated and of real pictures.

    Args:
        extractor: gives the features.
        real: those of the real pictures.
        resamples: see `FeatureMetric`; features are held only if there are any.

    Reference:
        Heusel et al., NeurIPS 2017, arXiv:1706.08500; the modes: Parmar et al., CVPR 2022, arXiv:2104.11222.
    """

    higher_is_better = False
    real: Real
    total: Tensor
    products: Tensor

    def __init__(self, extractor: Extractor, real: Real, resamples: int = 0) -> None:
        super().__init__(extractor, real, resamples, hold=False)
        size = extractor.num_features
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def take(self, features: Tensor) -> None:
        super().take(features)
        # From the real mean on, so that nothing is lost when the products are subtracted again.
        exact = features.double() - _side(self.real, features.device)[0]
        self.total += exact.sum(0)
        self.products += exact.T @ exact

    def figure(self, features: Tensor | None) -> Tensor:
        return self._distance(self.total, self.products, int(self.seen))

    def resampled(self, features: Tensor, generator: Any) -> Tensor:
        chosen = generator.integers(len(features), size=len(features))
        exact = features[torch.from_numpy(chosen).to(features.device)].double() - _side(self.real, features.device)[0]
        return self._distance(exact.sum(0), exact.T @ exact, len(exact))

    def _distance(self, total: Tensor, products: Tensor, count: int) -> Tensor:
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        real_mean, real_root = _side(self.real, total.device)
        return frechet_distance(mean + real_mean, covariance, real_mean, real_root)

    def identity(self) -> dict[str, Any]:
        found = super().identity()
        size, seen = self.extractor.num_features, self.measured
        few = [
            f"{number} {which} pictures"
            for number, which in ((seen, "generated"), (self.real.count, "real"))
            if number <= size
        ]
        if few:
            found["note"] = f"{' and '.join(few)} for {size} feature dimensions: strongly biased, compare equal N only"
        return found


# Every seed's metric compares with the same real pictures, and the root takes a while.
@functools.lru_cache(maxsize=4)
def _side(real: Real, device: torch.device) -> tuple[Tensor, Tensor]:
    return real.mean.to(device), root(real.covariance.to(device))
