"""Inception Score: classes that are sure for one image and spread over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from postdiff.engine.values import LARGEST
from postdiff.metrics.base import check_ranges
from postdiff.metrics.features import MOST_PARTS, FeatureMetric

if TYPE_CHECKING:
    from postdiff.metrics.extractors import TorchExtractor

__all__ = ["InceptionScore", "InceptionScoreOptions", "inception_score"]


def inception_score(probabilities: Tensor) -> Tensor:
    """exp of the mean KL divergence of each row of (N, classes) from the mean row; a float64 scalar, at least 1."""
    exact = probabilities.double()
    marginal = exact.mean(0, keepdim=True)
    # A class of probability zero adds nothing.
    terms = torch.special.xlogy(exact, exact) - torch.special.xlogy(exact, marginal)
    return terms.sum(1).mean().exp()


@dataclass
class InceptionScoreOptions:
    """The Inception Score.

    Attributes:
        extractor: file of the network, which must give class scores; null means the one in the environment variable.
        splits: parts that the score is the mean of.
        seed: of the split.
    """

    extractor: str | None = None
    splits: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, splits=(1, MOST_PARTS), seed=(0, LARGEST))


class InceptionScore(FeatureMetric):
    """Inception Score, classes sure for each image and spread over all; needs Inception.

    It is the mean over seeded random parts of equal size, as is usual with 10 parts, in Inception's own resizing.

    Reference:
        Salimans et al., NeurIPS 2016, arXiv:1606.03498.
    """

    title = "IS"
    higher_is_better = True
    digits = 2
    least = 2
    compares = False
    mode = "legacy_tensorflow"
    extractor: TorchExtractor
    Options = InceptionScoreOptions

    def update(self, images: Tensor) -> None:
        """Take in images (B, 3, H, W), uint8."""
        self.take(self.extractor.probabilities(images))

    def value(self, features: Tensor) -> Tensor:
        order = np.random.default_rng(self.options.seed).permutation(len(features))
        parts = np.array_split(order, min(self.options.splits, len(features) // 2))
        return torch.stack([inception_score(features[torch.from_numpy(part)]) for part in parts]).mean()

    def identity(self) -> dict[str, Any]:
        found = {**super().identity(), "splits": self.options.splits, "seed": self.options.seed}
        if self.measured < 1000 * self.options.splits:
            found["note"] = "fewer than 1000 images a split: biased downwards, compare equal N only"
        return found
