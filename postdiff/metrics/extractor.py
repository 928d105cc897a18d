"""What every network is that metrics of whole sets of pictures take features from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Extractor"]


class Extractor(nn.Module):
    """Features of pictures. Several metrics ask for those of one batch, so the last batch is remembered.

    Attributes:
        mode: one of `options.MODES`.
        checkpoint: which weights: 16 hexadecimal digits, or "repository@commit".
        num_features: length of a feature vector.
    """

    mode: str
    checkpoint: str
    num_features: int

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, d), float32, of pictures (B, 3, H, W), uint8."""
        assert images.dtype == torch.uint8, f"pictures must be uint8, not {images.dtype}"
        if self._last is None or self._last[0] is not images:
            self._last = (images, self.features(images))
        return self._last[1]

    def features(self, images: Tensor) -> Tensor:
        """As `forward`, computed anew."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Model, checkpoint, resizing and dtype."""
        raise NotImplementedError
