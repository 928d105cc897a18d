"""Images as files: which ones of a folder count, and how one is opened that may be broken or hostile."""

from __future__ import annotations

import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from postdiff.engine.errors import UsageError

__all__ = ["ENDINGS", "MOST_PIXELS", "Found", "found_in", "opened", "refuse_unreadable"]

# Those of clean-fid, in capitals too.
ENDINGS = (".bmp", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Images all the same, so that one in between means that those around it are not in the order that they seem to be in.
OTHERS = (
    *(".apng", ".avif", ".dng", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pnm"),
    *(".psd", ".svg", ".tga"),
)
# 8192 x 8192: more than cameras have but a few, and 200 MB as RGB.
MOST_PIXELS = 1 << 26
MOST_FILES = 2_000_000


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: files with one of `ENDINGS`, sorted.
        passed: how many others there are, by their ending; without hidden files, as clean-fid has it.
    """

    images: list[Path] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)

    @property
    def message(self) -> str:
        """The others in words, for instance "3 .gif, 1 .txt"; empty if there are none."""
        every = sorted(self.passed.items(), key=lambda item: (-item[1], item[0]))
        rest = sum(count for _, count in every[5:])
        named = [f"{count} {ending[:12] or 'without an ending'}" for ending, count in every[:5]]
        return ", ".join([*named, *([f"{rest} others"] if rest else [])])

    @property
    def unread(self) -> int:
        """How many of the others are images as well."""
        return sum(self.passed[ending] for ending in OTHERS)


def found_in(folder: Path, deep: bool) -> Found:
    """The images of a folder.

    Args:
        folder: that is there.
        deep: whether those of its folders count as well, links among them.

    Raises:
        UsageError: a folder that may not be read, a link that leads nowhere, or more files than `MOST_FILES`.
    """
    found, seen, count = Found(), set(), 0
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        state = Path(place).stat()
        if (state.st_dev, state.st_ino) in seen:  # a link that leads up again
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        count += len(names)
        if count > MOST_FILES:
            raise UsageError(f"{folder} holds more than {MOST_FILES:,} files; name the folder with the images")
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if ending in ENDINGS and not name.startswith("."):
                found.images.append(Path(place) / name)
            elif not name.startswith("."):
                found.passed[ending] += 1
    found.images.sort()
    for file in found.images:
        if not file.is_file():
            raise UsageError(f"image {file} is no file, or a link that leads nowhere; remove it")
    return found


def _raise(error: OSError) -> None:
    raise UsageError(f"image folder {error.filename} cannot be read ({error.strerror}); allow it or name another one")


def refuse_unreadable(file: Path) -> None:
    """A quick look at an image's first bytes, long before it is needed.

    Raises:
        UsageError: it is no image, or has more than `MOST_PIXELS`.
    """
    with opened(file):
        pass


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """An image, decoded where it is first used, as Pillow does it: of several frames the first.

    Args:
        file: of any format that Pillow reads without another program's help, or .npy of uint8 (height, width, 3).

    Raises:
        UsageError: it cannot be read, here or within the block; has more than `MOST_PIXELS`, told by its first bytes;
            or more than 8 bits of grey, which would be cut off.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd chunks; what cannot be read is an error
            with _array(file) if file.suffix.lower() == ".npy" else Image.open(file, formats=_formats()) as image:
                _check(file, image)
                yield image
    except (UsageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(file) from None
    except Exception as error:  # decoders raise what they like
        nothing = isinstance(error, UnidentifiedImageError)
        reason = "no image" if nothing else " ".join(str(error).split())[:80] or type(error).__name__
        raise UsageError(f"image {file} cannot be read ({reason}); put it right or remove it") from None


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]  # a program, which Ghostscript would run


def _array(file: Path) -> Image.Image:
    pixels: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"{pixels.dtype} {pixels.shape}, not uint8 (height, width, 3)")
    if pixels.shape[0] * pixels.shape[1] > MOST_PIXELS:
        raise _too_large(file, pixels.shape[1::-1])
    return Image.fromarray(np.array(pixels))


def _check(file: Path, image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(file, image.size)
    if image.mode[0] in "IF":
        raise UsageError(f"image {file} has more than 8 bits of grey (mode {image.mode}); save it with 8 bits")


def _too_large(file: Path, size: tuple[int, ...] = ()) -> UsageError:
    message = f"{size[0]} x {size[1]} pixels" if size else "far too many pixels"
    return UsageError(f"image {file} has {message}, more than {MOST_PIXELS:,} in all; make it smaller or remove it")
