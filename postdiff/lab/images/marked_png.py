"""A picture and what it is of, kept in one file: a PNG with a text chunk, so that the two cannot fall apart.

The chunk says of which settings, sample and batch the picture is, and holds a checksum of its pixels. A file that does
not say all of this rightly is none of ours, whatever it shows, and is never measured.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from postdiff.lab.files import typed
from postdiff.lab.files.typed import NotAsHinted
from postdiff.lab.samples import Sample

__all__ = ["LARGEST", "Damaged", "PictureRow", "decoded", "encoded", "marked", "pixel_hash", "row_of"]

CHUNK = "postdiff"
PIXELS = 1 << 27  # of a picture; a file that asks for more memory is none of ours
LARGEST = 4 * PIXELS  # bytes of such a picture's file
T = TypeVar("T")


class Damaged(Exception):
    """A file does not hold the picture that was written for a sample; the message says why."""


@dataclass(frozen=True)
class PictureRow:
    """What a file says of its picture, a line of a manifest.

    Attributes:
        index: see `Sample`.
        prompt: the text.
        seed: of the random numbers.
        sha256: of the pixels, height x width x RGB, one byte each.
        pictures: id of the settings: the name of the folder that it belongs to.
        batch: `data.batch_name` of the batch that it was drawn in.
    """

    index: int
    prompt: str
    seed: int
    sha256: str
    pictures: str
    batch: str

    def check(self, sample: Sample, pictures: str, batch: str | None) -> None:
        """Compare with what is wanted.

        Args:
            sample: of which sample.
            pictures: of which settings.
            batch: drawn in which batch; None means in any.

        Raises:
            Damaged: it is another picture's row.
        """
        if self.pictures != pictures:
            raise Damaged(f"is of other settings (pictures {self.pictures[:20]})")
        if (self.index, self.prompt, self.seed) != (sample.index, sample.prompt, sample.seed):
            raise Damaged(f"is of picture {self.index} ('{self.prompt[:60]}', seed {self.seed})")
        if batch is not None and self.batch != batch:
            raise Damaged("was drawn in another batch, of a run with other seeds or count")

    def check_pixels(self, image: Tensor) -> None:
        """Compare with the pixels (3, H, W), uint8.

        Raises:
            Damaged: they are not those that were written.
        """
        if self.sha256 != pixel_hash(image):
            raise Damaged("does not have the pixels that were written")


def row_of(sample: Sample, image: Tensor, pictures: str, batch: str) -> PictureRow:
    """The row of a sample's picture (3, H, W), uint8."""
    return PictureRow(sample.index, sample.prompt, sample.seed, pixel_hash(image), pictures, batch)


def pixel_hash(image: Tensor) -> str:
    """SHA-256 of a picture (3, H, W), uint8, read line by line."""
    assert image.dtype == torch.uint8
    return hashlib.sha256(image.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()).hexdigest()


def encoded(row: PictureRow, image: Tensor) -> bytes:
    """A PNG file of a picture (3, H, W), uint8, with its row."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, json.dumps(row.__dict__))
    stream = io.BytesIO()  # in memory first: Pillow hides the cause of a write that fails
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def marked(file: Path) -> PictureRow:
    """The row of a PNG file, read without its pixels.

    Raises:
        Damaged: it has none.
        OSError: it cannot be opened.
    """
    with _opened(file) as stream:
        return _read(stream, _row)


def decoded(file: Path, check: Callable[[PictureRow], None]) -> Tensor:
    """The pixels (3, H, W), uint8, of a PNG file.

    Args:
        file: to read.
        check: given its row before anything else is read; raises `Damaged` if it is not the one that is wanted.

    Raises:
        Damaged: it has no row, another one, or other pixels than were written with it.
        OSError: it cannot be opened.
    """

    def act(picture: PngImagePlugin.PngImageFile) -> tuple[PictureRow, Tensor]:
        row = _row(picture)
        check(row)
        return row, _pixels(picture)

    with _opened(file) as stream:
        row, image = _read(stream, act)
    row.check_pixels(image)
    return image


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """A file that may be anything, opened for reading.

    Raises:
        Damaged: it is too large for what is kept here.
        OSError: it cannot be opened.
    """
    with file.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size > LARGEST:
            raise Damaged("is too large to be a picture of this run")
        yield stream


def _read(stream: IO[bytes], act: Callable[[PngImagePlugin.PngImageFile], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_pixels` looks at the size
            with Image.open(stream, formats=["PNG"]) as picture:
                assert isinstance(picture, PngImagePlugin.PngImageFile)
                return act(picture)
    except Damaged:
        raise
    except Exception as error:  # whatever strange bytes make of Pillow
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise Damaged("cannot be decoded") from error


def _row(picture: PngImagePlugin.PngImageFile) -> PictureRow:
    text = picture.info.get(CHUNK)
    if text is None:
        raise Damaged("does not say what it is of")
    try:
        row: PictureRow = typed.built(PictureRow, typed.parsed(str(text)))
    except NotAsHinted as error:
        raise Damaged("does not say of which settings and batch it is") from error
    return row


def _pixels(picture: PngImagePlugin.PngImageFile) -> Tensor:
    if picture.mode != "RGB" or picture.width * picture.height > PIXELS:
        raise Damaged("is no picture as it was written")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
