"""An image and what it is of, kept in one file: a PNG with a text chunk, so that the two cannot fall apart.

The chunk says of which settings, sample and batch the image is, and holds a checksum of its pixels. A file that does
not say all of this rightly is none of ours, whatever it shows, and is never measured.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

from postdiff.lab.data.samples import Sample
from postdiff.lab.files import typed
from postdiff.lab.files.typed import NotAsHinted

__all__ = ["CorruptImageError", "ImageRow", "encode", "opened", "pixel_hash", "read"]

CHUNK = "postdiff"
PIXELS = 1 << 27  # of an image; a file that asks for more memory is none of ours
LARGEST = 4 * PIXELS  # bytes of such an image's file


class CorruptImageError(Exception):
    """A file does not hold the image that was written for a sample; the message says why."""


@dataclass(frozen=True)
class ImageRow:
    """What a file says of its image.

    Attributes:
        index: see `Sample`.
        prompt: the text.
        seed: of the random numbers.
        sha256: of the pixels, height x width x RGB, one byte each.
        images: id of the settings: the name of the folder that it belongs to.
        batch: `data.batch_name` of the batch that it was generated in.
    """

    index: int
    prompt: str
    seed: int
    sha256: str
    images: str
    batch: str

    def check(self, sample: Sample, settings: str, batch: str | None) -> None:
        """Compare with what is wanted.

        Args:
            sample: of which sample.
            settings: id of the settings.
            batch: generated in which batch; None means in any.

        Raises:
            CorruptImageError: it is another image's row.
        """
        if self.images != settings:
            raise CorruptImageError(f"is of other settings (images {self.images[:20]})")
        if (self.index, self.prompt, self.seed) != (sample.index, sample.prompt, sample.seed):
            raise CorruptImageError(f"is of image {self.index} ('{self.prompt[:60]}', seed {self.seed})")
        if batch is not None and self.batch != batch:
            raise CorruptImageError("was generated in another batch, of a run with other seeds or count")


def pixel_hash(image: Tensor) -> str:
    """SHA-256 of an image (3, H, W), uint8, read line by line."""
    assert image.dtype == torch.uint8
    return hashlib.sha256(image.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()).hexdigest()


def encode(sample: Sample, image: Tensor, settings: str, batch: str) -> bytes:
    """A PNG file of a sample's image (3, H, W), uint8, with its row."""
    row = ImageRow(sample.index, sample.prompt, sample.seed, pixel_hash(image), settings, batch)
    chunks = PngInfo()
    chunks.add_itxt(CHUNK, json.dumps(row.__dict__))
    stream = io.BytesIO()  # in memory first: Pillow hides the cause of a write that fails
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


@contextmanager
def opened(file: Path) -> Iterator[tuple[ImageRow, PngImageFile]]:
    """The row of a PNG file that may be anything, and the file itself, of which nothing else has been read.

    Raises:
        CorruptImageError: it has no row, or cannot be decoded.
        OSError: it cannot be opened.
    """
    with file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `read` looks at the size
        if os.fstat(stream.fileno()).st_size > LARGEST:
            raise CorruptImageError("is too large to be an image of this run")
        try:
            with Image.open(stream, formats=["PNG"]) as png:
                assert isinstance(png, PngImageFile)
                if (text := png.info.get(CHUNK)) is None:
                    raise CorruptImageError("does not say what it is of")
                row = typed.parsed(str(text))
                if isinstance(row, dict) and "pictures" in row:  # the key's name in earlier versions
                    row = {"images" if key == "pictures" else key: value for key, value in row.items()}
                yield typed.built(ImageRow, row), png
        except NotAsHinted as error:
            raise CorruptImageError("does not say of which settings and batch it is") from error
        except CorruptImageError:
            raise
        except Exception as error:  # whatever strange bytes make of Pillow
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the file's
            raise CorruptImageError("cannot be decoded") from error


def read(file: Path, sample: Sample, settings: str, batch: str | None) -> Tensor:
    """The image (3, H, W), uint8, of a file; arguments as of `ImageRow.check`.

    Raises:
        CorruptImageError: it is another image, or has other pixels than were written with its row.
        OSError: it cannot be opened.
    """
    with opened(file) as (row, png):
        row.check(sample, settings, batch)
        if png.mode != "RGB" or png.width * png.height > PIXELS:
            raise CorruptImageError("is no image as it was written")
        image = torch.from_numpy(np.array(png)).permute(2, 0, 1)
        if row.sha256 != pixel_hash(image):
            raise CorruptImageError("does not have the pixels that were written")
        return image
