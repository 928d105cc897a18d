"""CLIP score in the two scales that are in use; model, checkpoint and template are part of the value's identity."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from postdiff.metrics.base import PerImageMetric
from postdiff.metrics.clip_model import ClipExtractor
from postdiff.metrics.options import ClipOptions

__all__ = ["ClipScore", "ClipScoreW25"]


class ClipScore(PerImageMetric):
    """Mean of 100 x cosine(picture, prompt), not clamped: the scale of DeepCache and torchmetrics.

    Args:
        clip: gives the features.
        options: see `ClipOptions`.
    """

    higher_is_better = True
    formula = "100 x cosine, not clamped"

    def __init__(self, clip: ClipExtractor, options: ClipOptions) -> None:
        super().__init__()
        self.clip, self.options = clip, options

    def update(self, images: Tensor, prompts: list[str]) -> None:
        """Take in pictures (B, 3, H, W), uint8, and their B prompts."""
        texts = [self.options.template.replace("{prompt}", prompt) for prompt in prompts]
        self.add(self.scaled((self.clip(images) * self.clip.text_features(texts)).sum(1)))

    def scaled(self, cosines: Tensor) -> Tensor:
        """The score of each cosine."""
        return 100 * cosines

    def identity(self) -> dict[str, Any]:
        return {**self.clip.identity(), "formula": self.formula, "template": self.options.template}


class ClipScoreW25(ClipScore):
    """Mean of 2.5 x max(cosine, 0): CLIPScore as its authors scale it.

    Reference:
        Hessel et al., EMNLP 2021, arXiv:2104.08718, Sec. 3. They put "A photo depicts " before a caption: a `template`.
    """

    formula = "2.5 x max(cosine, 0)"

    def scaled(self, cosines: Tensor) -> Tensor:
        return 2.5 * cosines.clamp(min=0)
