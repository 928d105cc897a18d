"""How well a picture fits its prompt, in the shipped dual encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from postdiff.metrics.base import PerImageMetric
from postdiff.metrics.encoder import DualEncoder

__all__ = ["EmojiTextScore"]


class EmojiTextScore(PerImageMetric):
    """Mean of 100 x cosine(picture, prompt): weight 100, no clamp at zero, the prompt as it is."""

    higher_is_better = True

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def update(self, images: Tensor, prompts: list[str]) -> None:
        """Take in pictures (B, 3, H, W), uint8, and their B prompts."""
        self.add(100 * functional.cosine_similarity(self.encoder(images), self.encoder.text_features(prompts)))

    def identity(self) -> dict[str, Any]:
        return {"formula": "100 x cosine, not clamped", "template": "{prompt}", **self.encoder.identity()}
