"""Frechet distances from sums in float64: FID in clean-fid's modes, and those in the features of networks that ship."""

from __future__ import annotations

import functools
from typing import Any, Self

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.metrics import clip
from postdiff.metrics.base import Resources
from postdiff.metrics.features import Compared, Extractor, FeatureMetric, ReferenceOptions
from postdiff.metrics.reference import ReferenceStatistics

__all__ = [
    *("FID", "CleanFID", "EmojiFrechetDistance", "FrechetEfficientNet", "PytorchFID", "TensorflowFID"),
    *("frechet_distance", "root"),
]


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
    """Frechet distance between features of generated and of reference images, which are held only to be resampled.

    Reference:
        Heusel et al., NeurIPS 2017, arXiv:1706.08500; the modes: Parmar et al., CVPR 2022, arXiv:2104.11222.
    """

    higher_is_better = False
    digits = 2
    least = 2
    holds = False
    Options = ReferenceOptions
    real: ReferenceStatistics
    total: Tensor
    products: Tensor

    def __init__(self, extractor: Extractor, real: ReferenceStatistics, options: Any = None) -> None:
        super().__init__(extractor, real, options)
        size = extractor.num_features
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def take(self, features: Tensor) -> None:
        super().take(features)
        exact = self._exact(features)
        self.total += exact.sum(0)
        self.products += exact.T @ exact

    def value(self, features: Tensor) -> Tensor:
        return self._distance(self.total, self.products, int(self.seen))

    def resampled(self, features: Tensor, generator: Any) -> Tensor:
        chosen = generator.integers(len(features), size=len(features))
        exact = self._exact(features[torch.from_numpy(chosen).to(features.device)])
        return self._distance(exact.sum(0), exact.T @ exact, len(exact))

    def _exact(self, features: Tensor) -> Tensor:
        """From the real mean on, so that nothing is lost when the products are subtracted again."""
        return features.double() - _side(self.real, features.device)[0]

    def _distance(self, total: Tensor, products: Tensor, count: int) -> Tensor:
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        real_mean, real_root = _side(self.real, total.device)
        return frechet_distance(mean + real_mean, covariance, real_mean, real_root)

    def identity(self) -> dict[str, Any]:
        found = super().identity()
        size, seen = self.extractor.num_features, self.measured
        sides = {"generated": seen, "real": self.real.count}
        few = [f"{number} {which} images" for which, number in sides.items() if number <= size]
        if few:
            found["note"] = f"{' and '.join(few)} for {size} feature dimensions: strongly biased, compare equal N only"
        return found


class CleanFID(FID):
    """Frechet Inception distance as clean-fid has it; needs Inception and 'postdiff data statistics'."""

    title = "FID (clean)"
    mode = "clean"


class PytorchFID(FID):
    """Frechet Inception distance as pytorch-fid has it; needs Inception and 'postdiff data statistics'."""

    title = "FID (pytorch)"
    mode = "legacy_pytorch"


class TensorflowFID(FID):
    """Frechet Inception distance as the authors' code has it; needs Inception and 'postdiff data statistics'."""

    title = "FID (tensorflow)"
    mode = "legacy_tensorflow"


class FrechetEfficientNet(FID):
    """Frechet distance in features of EfficientNet-Lite0, which ships; not FID; needs 'postdiff data statistics'."""

    title = "Frechet (EfficientNet)"
    mode = "efficientnet"
    Options = Compared  # type: ignore[assignment]


class EmojiFrechetDistance(FID):
    """Frechet distance to the real emoji in the shipped dual encoder's features; not FID, not comparable with it.

    Args:
        extractor: the dual encoder.
        real: of the reference images, from the same encoder.
    """

    title = "Frechet dist."
    needs = ("encoder", "statistics")
    by_default = True
    Options = None  # type: ignore[assignment]
    extractor: clip.ClipExtractor

    def __init__(self, extractor: clip.ClipExtractor, real: ReferenceStatistics) -> None:
        if real.encoder not in ("", extractor.weights) or real.mean.numel() != extractor.num_features:
            raise UsageError(
                f"the reference statistics were made with another encoder than '{extractor.name}' "
                f"(weights {extractor.weights[:12]}); choose a data card that fits the model card"
            )
        super().__init__(extractor, real)

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        assert resources.encoder is not None and resources.statistics is not None
        return cls(clip.dual_encoder(resources.encoder), ReferenceStatistics.of_card(resources.statistics))

    @classmethod
    def rests_on(cls, options: Any, resources: Resources) -> list[str | None]:
        return []  # beside the row's own files

    def identity(self) -> dict[str, Any]:
        return {
            **self.extractor.identity(),
            "reference_images": self.real.count,
            "note": "not FID; comparable only between values of equal N, encoder and statistics",
        }


# Every seed's metric compares with the same reference images, and the root takes a while.
@functools.lru_cache(maxsize=4)
def _side(real: ReferenceStatistics, device: torch.device) -> tuple[Tensor, Tensor]:
    return real.mean.to(device), root(real.covariance.to(device))
