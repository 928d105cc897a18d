"""What people would prefer, as learnt scorers guess it."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from postdiff.metrics.base import PerImageMetric, Resources

__all__ = ["Scorer", "ScorerMetric"]


class Scorer(nn.Module):
    """Scores images for their prompts; the higher, the more people would like them.

    Several metrics ask for the scores of one batch, so the last batch is remembered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Tensor, list[str], Tensor] | None = None

    @classmethod
    def load(cls) -> Self:
        """With its weights, from where the environment says or else the authors' repository.

        Raises:
            UsageError: a file is missing and cannot be fetched, or of another kind.
        """
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores (B,), float32, of images (B, 3, H, W), uint8, for their B prompts."""
        assert images.dtype == torch.uint8, f"images must be uint8, not {images.dtype}"
        if self._last is None or self._last[0] is not images or self._last[1] != prompts:
            self._last = (images, list(prompts), self.scores(images, prompts))
        return self._last[2]

    def scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        """As `forward`, computed anew."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Model, checkpoint, resizing and dtype."""
        raise NotImplementedError


class ScorerMetric(PerImageMetric):
    """Mean score over images.

    Attributes:
        behind: the class of its scorer.
    """

    behind: type[Scorer]

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        return cls(cls.behind.load())

    def update(self, images: Tensor, prompts: list[str]) -> None:
        """Take in images (B, 3, H, W), uint8, and their B prompts."""
        self.add(self.scorer(images, prompts))

    def identity(self) -> dict[str, Any]:
        return self.scorer.identity()
