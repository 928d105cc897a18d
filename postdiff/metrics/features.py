"""Base of the metrics of a whole set of pictures: features taken in batch by batch, and the spread under resampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from postdiff.metrics.extractor import Extractor
from postdiff.metrics.real import Real

__all__ = ["FeatureMetric", "in_order"]


def in_order(features: Tensor) -> Tensor:
    """The rows of (N, d) in an order of their own, so that a seeded draw does not depend on which came first."""
    keys = features[:, : min(3, features.shape[1])].cpu().numpy()
    return features[torch.from_numpy(np.lexsort(keys.T[::-1])).to(features.device)]


class FeatureMetric(Metric):
    """A figure of the features of all pictures; those are held, in float32, and joined over devices.

    Args:
        extractor: gives the features.
        real: those of real pictures, or None if the metric has no use for them.
        resamples: how many times `compute` draws the pictures anew, with replacement, for an interval.

    Attributes:
        draws: the figure of each resample after `compute`; empty without resampling.
        measured: pictures in the last `compute`, those of all devices.
    """

    full_state_update = False
    is_differentiable = False
    features: Any
    real: Any
    seen: Tensor

    def __init__(self, extractor: Extractor, real: Real | None = None, resamples: int = 0, hold: bool = True) -> None:
        super().__init__()
        self.extractor, self.real, self.resamples = extractor, real, resamples
        self.draws: list[float] = []
        self.measured = 0
        self.hold = hold or resamples > 0
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        if self.hold:
            self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, images: Tensor) -> None:
        """Take in pictures (B, 3, H, W), uint8."""
        self.take(self.extractor(images))

    def take(self, features: Tensor) -> None:
        """Take in features (B, d)."""
        self.seen += len(features)
        if self.hold:
            self.features.append(features.detach())

    def compute(self) -> Tensor:
        """The figure, a float64 scalar; NaN for fewer than two pictures."""
        self.measured = int(self.seen)
        if self.measured < 2:
            self.draws = []
            return torch.tensor(float("nan"), dtype=torch.float64)
        held = in_order(self.held()) if self.hold else None
        value = self.figure(held)
        generator = np.random.default_rng(0)
        self.draws = [float(self.resampled(held, generator)) for _ in range(self.resamples)] if held is not None else []
        return value

    def held(self) -> Tensor:
        """All features (N, d), float32."""
        found = self.features
        return torch.cat(found) if isinstance(found, list) else found

    def figure(self, features: Tensor | None) -> Tensor:
        """The figure of features (N, d), or of the sums if features are not held."""
        raise NotImplementedError

    def resampled(self, features: Tensor, generator: np.random.Generator) -> Tensor:
        """The figure of as many pictures drawn with replacement."""
        chosen = generator.integers(len(features), size=len(features))
        return self.figure(features[torch.from_numpy(chosen).to(features.device)])

    def identity(self) -> dict[str, Any]:
        """Extractor, real pictures and, where it matters, a warning about too few pictures."""
        found: dict[str, Any] = dict(self.extractor.identity())
        if self.real is not None:
            found["statistics"] = {name: self.real.identity.get(name) for name in ("data", "images", "count", "crop")}
        return found
