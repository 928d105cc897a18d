"""Improved precision and recall: which share of one side's images lies among the other side's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from postdiff.engine.values import LARGEST
from postdiff.metrics.base import check_choice, check_ranges
from postdiff.metrics.features import (
    INCEPTION_MODES,
    MOST_IMAGES,
    MOST_PARTS,
    Extractor,
    FeatureMetric,
    ReferenceOptions,
    in_order,
)
from postdiff.metrics.reference import ReferenceStatistics

__all__ = ["Precision", "PrecisionRecallOptions", "Recall", "inside", "radii"]

ROWS = 1024  # so that distances of 50,000 images need 200 MB and not 10 GB


def radii(features: Tensor, k: int) -> Tensor:
    """Distance of each row of (N, d) to its k-th nearest neighbour, itself not counted; (N,)."""
    found = [_distances(part, features).kthvalue(k + 1, dim=1).values for part in features.split(ROWS)]
    return torch.cat(found)


def inside(points: Tensor, features: Tensor, radius: Tensor) -> Tensor:
    """Whether each row of points (M, d) is within the radius (N,) of any row of features (N, d); (M,)."""
    return torch.cat([(_distances(part, features) <= radius).any(1) for part in points.split(ROWS)])


def _distances(points: Tensor, others: Tensor) -> Tensor:
    # Not by way of the scalar products: their rounding would move images over the rim.
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass
class PrecisionRecallOptions(ReferenceOptions):
    """Precision or recall.

    Attributes:
        mode: clean, legacy_pytorch or legacy_tensorflow.
        k: which neighbour's distance is the radius.
        cap: at most so many images of either side, drawn with `seed`; null means all.
        seed: of that draw.
    """

    mode: str = "clean"
    k: int = 3
    cap: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, k=(1, MOST_PARTS), seed=(0, LARGEST))
        check_ranges(self, cap=(self.k + 1, MOST_IMAGES))
        check_choice(self, "mode", INCEPTION_MODES)


class Precision(FeatureMetric):
    """Share of the images that lie among the reference images; needs Inception and 'postdiff data statistics'.

    Among them is whatever lies within some real image's k-th neighbour distance. For an interval, the images that the
    share is of are drawn anew.

    Reference:
        Kynkaanniemi et al., NeurIPS 2019, arXiv:1904.06991. They use VGG16; the extractor is in the identity.
    """

    title = "Precision"
    higher_is_better = True
    digits = 3
    least = 4
    real: ReferenceStatistics
    Options = PrecisionRecallOptions

    def __init__(self, extractor: Extractor, real: ReferenceStatistics, options: Any = None) -> None:
        super().__init__(extractor, real, options)
        self._hits = torch.empty(0)

    def value(self, features: Tensor) -> Tensor:
        assert self.real.features is not None
        real = self._capped(in_order(self.real.features.to(features.device)))
        generated = self._capped(features)
        if min(len(real), len(generated)) <= self.options.k:
            return torch.tensor(float("nan"), dtype=torch.float64)
        self._hits = self.hits(real, generated).double()
        return self._hits.mean()

    def hits(self, real: Tensor, generated: Tensor) -> Tensor:
        """Which images are inside, as booleans."""
        return inside(generated, real, radii(real, self.options.k))

    def resampled(self, features: Tensor, generator: np.random.Generator) -> Tensor:
        chosen = generator.integers(len(self._hits), size=len(self._hits))
        return self._hits[torch.from_numpy(chosen).to(self._hits.device)].mean()

    def _capped(self, features: Tensor) -> Tensor:
        cap = self.options.cap
        if cap is None or len(features) <= cap:
            return features
        chosen = np.random.default_rng(self.options.seed).choice(len(features), cap, replace=False)
        return features[torch.from_numpy(chosen).to(features.device)]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "k": self.options.k, "cap": self.options.cap}


class Recall(Precision):
    """Share of the reference images that lie among the images; needs Inception and 'postdiff data statistics'."""

    title = "Recall"

    def hits(self, real: Tensor, generated: Tensor) -> Tensor:
        return inside(real, generated, radii(generated, self.options.k))
