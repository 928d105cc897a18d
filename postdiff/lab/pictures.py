"""A folder of finished pictures, `<seed>/<index>.png`, so that a broken-off run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.lab import folders
from postdiff.lab.data import Sample

__all__ = ["PictureFolder"]


class PictureFolder:
    """Pictures of one setting.

    Args:
        folder: named after the hash of all that decides the pixels, so pictures of two settings never mix.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, sample: Sample) -> Path:
        """Where the picture of a sample is or will be."""
        return self.folder / str(sample.seed) / f"{sample.index:05d}.png"

    def has(self, sample: Sample) -> bool:
        """Whether the picture is finished."""
        return self.file(sample).is_file()

    def write(self, samples: Sequence[Sample], images: Tensor) -> None:
        """Save pictures (B, 3, H, W), uint8, each whole or not at all."""
        for sample, image in zip(samples, images, strict=True):
            with folders.whole_file(self.file(sample)) as temporary:
                Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(temporary)

    def read(self, samples: Sequence[Sample]) -> Tensor:
        """Load pictures as (B, 3, H, W), uint8.

        Raises:
            UsageError: a picture is missing or damaged.
        """
        return torch.stack([self._read(self.file(sample)) for sample in samples])

    def _read(self, file: Path) -> Tensor:
        try:
            with Image.open(file) as image:
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        except OSError as error:
            raise UsageError(f"picture {file} cannot be read; remove it and run the row again") from error
