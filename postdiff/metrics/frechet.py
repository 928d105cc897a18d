"""Frechet distance in the shipped encoder's features: torchmetrics' formula, our extractor, our real statistics."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.utilities import dim_zero_max

from postdiff.engine.errors import UsageError
from postdiff.metrics.encoder import DualEncoder
from postdiff.metrics.features import in_order
from postdiff.metrics.fid import frechet_distance, root

__all__ = ["EmojiFrechetDistance", "Statistics"]


@dataclass(frozen=True)
class Statistics:
    """Gaussian fitted to real pictures' features.

    Attributes:
        mean: (d,).
        covariance: (d, d), unbiased.
        count: number of real pictures.
        encoder: SHA-256 of the weights of the encoder that gave the features; empty if unknown.
    """

    mean: Tensor
    covariance: Tensor
    count: int
    encoder: str = ""

    @classmethod
    def load(cls, file: Path) -> Statistics:
        """Read a safetensors file with `mean`, `covariance`, `count` and the metadata `encoder_sha256`.

        Raises:
            UsageError: the file is missing or holds something else.
        """
        if not file.is_file():
            raise UsageError(f"reference statistics {file} are missing; name another file in the data card")
        try:
            with safe_open(file, "pt") as found:
                missing = {"mean", "covariance", "count"} - set(found.keys())
                if missing:
                    raise UsageError(
                        f"{file} holds no {', '.join(sorted(missing))}, so it is no file of reference statistics; name "
                        "another one in the data card"
                    )
                mean, covariance, count = (found.get_tensor(key) for key in ("mean", "covariance", "count"))
                encoder = (found.metadata() or {}).get("encoder_sha256", "")
        except SafetensorError as error:
            raise UsageError(
                f"reference statistics {file} cannot be read ({error}); make or fetch them again"
            ) from error
        return cls(mean.double(), covariance.double(), int(count), encoder)


class EmojiFrechetDistance(FrechetInceptionDistance):
    """||m1 - m2||^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) between real and generated features; the fewer pictures, the larger.

    The class computes what torchmetrics' FrechetInceptionDistance computes, but with a small encoder of emoji in
    place of Inception, so values say nothing beside a published FID.

    Args:
        encoder: gives the features.
        statistics: the real pictures' side, from the same encoder.
        resamples: how many times `compute` draws the pictures anew, with replacement, for an interval; only then are
            features kept.

    Attributes:
        draws: the distance of each resample after `compute`.
    """

    held: Any

    def __init__(self, encoder: DualEncoder, statistics: Statistics, resamples: int = 0) -> None:
        super().__init__(feature=encoder, reset_real_features=False)
        if statistics.encoder not in ("", encoder.weights) or statistics.mean.numel() != encoder.num_features:
            raise UsageError(
                f"the reference statistics were made with another encoder than '{encoder.name}' "
                f"(weights {encoder.weights[:12]}); choose a data card that fits the model card"
            )
        self.statistics, self.resamples = statistics, resamples
        self.draws: list[float] = []
        if resamples:
            self.add_state("held", [], dist_reduce_fx="cat")
        count, mean = statistics.count, statistics.mean
        self.real_features_sum += count * mean
        self.real_features_cov_sum += (count - 1) * statistics.covariance + count * torch.outer(mean, mean)
        self.real_features_num_samples += count
        # Every process of a run has this whole side already, so joining them must not add it up.
        for name in ("real_features_sum", "real_features_cov_sum", "real_features_num_samples"):
            self._reductions[name] = dim_zero_max

    def update(self, images: Tensor) -> None:  # type: ignore[override]
        """Take in generated pictures, (B, 3, H, W), uint8."""
        super().update(images, real=False)
        if self.resamples:
            self.held.append(self.inception(images))

    def compute(self) -> Tensor:
        """The distance, a scalar."""
        value = super().compute()
        if self.resamples:
            held = in_order(torch.cat(self.held) if isinstance(self.held, list) else self.held).double()
            generator = np.random.default_rng(0)
            self.draws = [
                self._distance(held[generator.integers(len(held), size=len(held))]) for _ in range(self.resamples)
            ]
        return value

    def _distance(self, features: Tensor) -> float:
        mean, real_root = (each.to(features.device) for each in (self.statistics.mean, self._real_root))
        return float(frechet_distance(features.mean(0), torch.cov(features.T), mean, real_root))

    @functools.cached_property
    def _real_root(self) -> Tensor:
        return root(self.statistics.covariance)

    def identity(self) -> dict[str, Any]:
        """Encoder, number of real pictures, and the warning that belongs to the value."""
        encoder = self.inception
        assert isinstance(encoder, DualEncoder)
        return {
            **encoder.identity(),
            "real_pictures": int(self.real_features_num_samples),
            "note": "not FID; comparable only between values of equal N, encoder and statistics",
        }
