"""Inception Score: classes that are sure for one picture and spread over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from postdiff.metrics.extractors import TorchExtractor
from postdiff.metrics.features import FeatureMetric
from postdiff.metrics.options import InceptionScoreOptions

__all__ = ["InceptionScore", "inception_score"]


def inception_score(probabilities: Tensor) -> Tensor:
    """exp of the mean KL divergence of each row of (N, classes) from the mean row; a float64 scalar, at least 1."""
    exact = probabilities.double()
    marginal = exact.mean(0, keepdim=True)
    # A class of probability zero adds nothing.
    terms = torch.special.xlogy(exact, exact) - torch.special.xlogy(exact, marginal)
    return terms.sum(1).mean().exp()


class InceptionScore(FeatureMetric):
    """Mean score over seeded random parts of equal size, as is usual with 10 parts; it knows no real pictures.

    Args:
        extractor: gives class probabilities; Inception in its own resizing, mode legacy_tensorflow.
        options: see `InceptionScoreOptions`.
        resamples: see `FeatureMetric`.

    Reference:
        Salimans et al., NeurIPS 2016, arXiv:1606.03498.
    """

    higher_is_better = True
    extractor: TorchExtractor

    def __init__(self, extractor: TorchExtractor, options: InceptionScoreOptions, resamples: int = 0) -> None:
        super().__init__(extractor, None, resamples)
        self.options = options

    def update(self, images: Tensor) -> None:
        """Take in pictures (B, 3, H, W), uint8."""
        self.take(self.extractor.probabilities(images))

    def figure(self, features: Tensor | None) -> Tensor:
        assert features is not None
        order = np.random.default_rng(self.options.seed).permutation(len(features))
        parts = np.array_split(order, min(self.options.splits, len(features) // 2))
        return torch.stack([inception_score(features[torch.from_numpy(part)]) for part in parts]).mean()

    def identity(self) -> dict[str, Any]:
        found = {**super().identity(), "splits": self.options.splits, "seed": self.options.seed}
        if self.measured < 1000 * self.options.splits:
            found["note"] = "fewer than 1000 pictures a split: biased downwards, compare equal N only"
        return found
