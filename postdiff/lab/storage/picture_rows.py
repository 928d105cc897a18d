"""A picture and what it is of, kept in one file: a PNG with a text chunk, so that the two cannot fall apart."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from postdiff.lab.inputs.data import Sample

__all__ = ["Damaged", "PictureRow", "decoded", "encoded", "pixel_hash", "row_of"]

CHUNK = "postdiff"


class Damaged(Exception):
    """A file does not hold what was written into it; the message says why."""


@dataclass(frozen=True)
class PictureRow:
    """One line of a manifest.

    Attributes:
        index: see `Sample`.
        prompt: the text.
        seed: of the random numbers.
        sha256: of the pixels, height x width x RGB, one byte each.
    """

    index: int
    prompt: str
    seed: int
    sha256: str

    def check(self, sample: Sample, image: Tensor) -> None:
        """Compare with what is wanted and with the pixels (3, H, W).

        Raises:
            Damaged: the row is of another sample, or the pixels are not those that were written.
        """
        if (self.index, self.prompt, self.seed) != (sample.index, sample.prompt, sample.seed):
            raise Damaged(f"is of picture {self.index} ('{self.prompt}', seed {self.seed})")
        if self.sha256 != pixel_hash(image):
            raise Damaged("does not have the pixels that were written")


def row_of(sample: Sample, image: Tensor) -> PictureRow:
    """The row of a sample's picture (3, H, W), uint8."""
    return PictureRow(sample.index, sample.prompt, sample.seed, pixel_hash(image))


def pixel_hash(image: Tensor) -> str:
    """SHA-256 of a picture (3, H, W), uint8, read line by line."""
    assert image.dtype == torch.uint8
    return hashlib.sha256(image.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()).hexdigest()


def encoded(sample: Sample, image: Tensor) -> bytes:
    """A PNG file of a picture (3, H, W), uint8, with its row."""
    row = row_of(sample, image)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, json.dumps(row.__dict__))
    stream = io.BytesIO()  # in memory first: Pillow hides the cause of a write that fails
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def decoded(file: Path, sample: Sample) -> Tensor:
    """The picture (3, H, W), uint8, of a file written by `encoded`, or by an older version, which kept no row.

    Raises:
        Damaged: it cannot be decoded, or is not the picture that was written for this sample.
        OSError: it cannot be opened.
    """
    content = file.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
            text = picture.info.get(CHUNK)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Damaged("cannot be decoded") from error
    if text is not None:
        try:
            row = PictureRow(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise Damaged("has an unreadable row") from error
        row.check(sample, image)
    return image
