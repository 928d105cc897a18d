"""Distances to the image that the reference run made from the same prompt and seed.

They need no data set and show small changes at once. They also punish harmless ones: a method that draws other
noise on the way (mixed resolution) gives another image, not necessarily a worse one.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from postdiff.metrics.base import PerImageMetric, Resources
from postdiff.metrics.features import Extractor

__all__ = ["PSNR_CAP", "PairedFeatureDistance", "PairedPSNR", "PairedSSIM", "psnr"]

# Equal images have an infinite PSNR, which would swallow a mean; one grey level in one pixel of a
# 512 x 512 image is 107 dB, so nothing that the eye could see is above this.
PSNR_CAP = 100.0


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """PSNR of each image in dB, capped at 100.

    Args:
        images: (B, 3, H, W), uint8.
        references: the same shape, uint8.

    Returns:
        (B,), float64.
    """
    error = (images.double() - references.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / error)).clamp(max=PSNR_CAP)


class PairedPSNR(PerImageMetric):
    """Peak signal-to-noise ratio to the reference run of the same prompt and seed, in dB, capped at 100.

    It is the mean over images of each one's, not that of the mean error.
    """

    title = "PSNR"
    higher_is_better = True
    digits = 1
    needs = ("references",)
    by_default = True

    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in images and references, (B, 3, H, W), uint8."""
        self.add(psnr(images, references))

    def identity(self) -> dict[str, Any]:
        return {"unit": "dB", "cap": PSNR_CAP, "mean": "of per-image values", "resize": "none", "dtype": "uint8"}


class PairedSSIM(PerImageMetric):
    """Structural similarity to the reference run of the same prompt and seed, at most 1.

    It is that of 8-bit RGB: Gaussian window of 11 pixels, sigma 1.5, borders mirrored.
    """

    title = "SSIM"
    higher_is_better = True
    digits = 3
    needs = ("references",)
    by_default = True

    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in images and references, (B, 3, H, W), uint8."""
        # In float32, exact to about 1e-4 where an image is flat: float64 takes 35 times as long on a CPU.
        found = structural_similarity_index_measure(
            images.float() / 255, references.float() / 255, data_range=1.0, reduction="none"
        )
        assert isinstance(found, Tensor)
        self.add(found.reshape(-1))

    def identity(self) -> dict[str, Any]:
        return {
            "window": "gaussian 11, sigma 1.5, borders mirrored",
            "data_range": 1.0,
            "resize": "none",
            "dtype": "uint8, compared in float32",
        }


class PairedFeatureDistance(PerImageMetric):
    """Cosine distance in the dual encoder's features to the reference run of the same prompt and seed, 0 to 2."""

    title = "Feature dist."
    higher_is_better = False
    digits = 4
    needs = ("references", "encoder")
    by_default = True

    def __init__(self, encoder: Extractor) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        from postdiff.metrics import clip

        assert resources.encoder is not None
        return cls(clip.dual_encoder(resources.encoder))

    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in images and references, (B, 3, H, W), uint8."""
        # References first: the images' features then stay remembered for the next metric.
        expected, found = self.encoder(references), self.encoder(images)
        # |u - v|^2 / 2 of unit vectors is 1 - cosine without the rounding of a difference of nearly equal numbers.
        apart = functional.normalize(found.double()) - functional.normalize(expected.double())
        self.add(apart.square().sum(1) / 2)

    def identity(self) -> dict[str, Any]:
        return {"distance": "1 - cosine", **self.encoder.identity()}
