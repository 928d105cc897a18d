"""Frechet distance in the shipped encoder's features: torchmetrics' formula, our extractor, our real statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from postdiff.engine.errors import UsageError
from postdiff.metrics.encoder import DualEncoder

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
        with safe_open(file, "pt") as found:
            missing = {"mean", "covariance", "count"} - set(found.keys())
            if missing:
                raise UsageError(f"{file} holds no {', '.join(sorted(missing))}; it is no file of reference statistics")
            mean, covariance, count = (found.get_tensor(key) for key in ("mean", "covariance", "count"))
            encoder = (found.metadata() or {}).get("encoder_sha256", "")
        return cls(mean.double(), covariance.double(), int(count), encoder)


class EmojiFrechetDistance(FrechetInceptionDistance):
    """||m1 - m2||^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) between real and generated features; the fewer pictures, the larger.

    The class computes what torchmetrics' FrechetInceptionDistance computes, but with a small encoder of emoji in
    place of Inception, so values say nothing beside a published FID.

    Args:
        encoder: gives the features.
        statistics: the real pictures' side, from the same encoder.
    """

    def __init__(self, encoder: DualEncoder, statistics: Statistics) -> None:
        super().__init__(feature=encoder, reset_real_features=False)
        if statistics.encoder not in ("", encoder.checkpoint) or statistics.mean.numel() != encoder.num_features:
            raise UsageError(
                f"the reference statistics were made with another encoder than '{encoder.name}' "
                f"(weights {encoder.checkpoint[:12]}); choose a data card that fits the model card"
            )
        count, mean = statistics.count, statistics.mean
        self.real_features_sum += count * mean
        self.real_features_cov_sum += (count - 1) * statistics.covariance + count * torch.outer(mean, mean)
        self.real_features_num_samples += count

    def update(self, images: Tensor) -> None:  # type: ignore[override]
        """Take in generated pictures, (B, 3, H, W), uint8."""
        super().update(images, real=False)

    def identity(self) -> dict[str, Any]:
        """Encoder, number of real pictures, and the warning that belongs to the value."""
        encoder = self.inception
        assert isinstance(encoder, DualEncoder)
        return {
            **encoder.identity(),
            "real_pictures": int(self.real_features_num_samples),
            "note": "not FID; comparable only between values of equal N, encoder and statistics",
        }
