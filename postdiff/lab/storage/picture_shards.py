"""Pictures in `.npz` files of a batch each, for runs of so many pictures that one file each is a burden."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from torch import Tensor

from postdiff.lab.files import folders
from postdiff.lab.images.marked_png import LARGEST, Damaged, PictureRow, row_of
from postdiff.lab.samples import Sample

__all__ = ["PictureShards"]

Key = tuple[int, int]
State = tuple[Path, int, int, int]  # a file, its times of change and its size
T = TypeVar("T")
TEXTS = 1 << 26  # bytes of an array beside the pictures
NAME = re.compile(r"\d+-\d{5,}-[0-9a-f]{8}\.npz")
# Arrays beside the pictures: the kinds of their dtypes, and how many dimensions they have.
BESIDE = {"index": ("iu", 1), "seed": ("iu", 1), "prompt": ("U", 1), "sha256": ("U", 1), "pictures": ("U", 0)}
BESIDE |= {"batch": ("U", 0)}


class PictureShards:
    """The `.npz` files of a folder: arrays images (B, H, W, 3) uint8, index, seed, prompt and sha256; pictures, batch.

    Args:
        folder: of the files; need not exist.
        pictures: id of the settings that they are of.
        batches: the batch that each picture is to be of, by seed and index; None means any.
    """

    def __init__(self, folder: Path, pictures: str, batches: Mapping[Key, str] | None = None) -> None:
        self.folder, self.pictures, self.batches = folder, pictures, batches
        self._files: dict[Key, tuple[Path, int, PictureRow]] | None = None
        self._last: tuple[State, np.ndarray] | None = None

    def refresh(self) -> dict[Path, str]:
        """Look again at what is there; returns the files that hold no pictures of these settings, with the reason.

        Pictures of other batches are passed over: they belong to runs with other seeds or count.
        """
        self._files, broken = {}, {}
        for file in sorted(self.folder.glob("[!.]*.npz")) if self.folder.is_dir() else []:
            if not NAME.fullmatch(file.name) or not file.is_file():
                continue
            try:
                rows = _rows(_state(file))
            except Damaged as error:
                broken[file] = str(error)
                continue
            except FileNotFoundError:
                continue
            if rows[0].pictures != self.pictures:
                broken[file] = f"is of other settings (pictures {rows[0].pictures[:20]})"
                continue
            for place, row in enumerate(rows):
                key = (row.seed, row.index)
                if self.batches is None or self.batches.get(key) == row.batch:
                    self._files[key] = (file, place, row)
        return broken

    def file(self, sample: Sample) -> Path | None:
        """The file that holds a sample's picture, or None."""
        found = self._found(sample)
        return None if found is None else found[0]

    def row(self, sample: Sample) -> PictureRow:
        """What the file of a sample that is there says of it."""
        found = self._found(sample)
        assert found is not None
        return found[2]

    def write(self, samples: Sequence[Sample], images: Tensor, batch: str) -> None:
        """Save pictures (B, 3, H, W), uint8, drawn in one batch, as one file, whole or not at all."""
        keys = [(sample.seed, sample.index) for sample in samples]
        name = hashlib.sha256(repr([batch, keys]).encode()).hexdigest()[:8]
        file = self.folder / f"{samples[0].seed}-{samples[0].index:05d}-{name}.npz"
        rows = [row_of(sample, image, self.pictures, batch) for sample, image in zip(samples, images, strict=True)]
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            images=images.permute(0, 2, 3, 1).cpu().numpy(),
            index=np.array([sample.index for sample in samples]),
            seed=np.array([sample.seed for sample in samples]),
            prompt=np.array([sample.prompt for sample in samples]),
            sha256=np.array([row.sha256 for row in rows]),
            pictures=np.array(self.pictures),
            batch=np.array(batch),
        )
        with folders.whole_file(file) as temporary:
            temporary.write_bytes(stream.getvalue())
        if self._files is not None:
            self._files |= {key: (file, place, rows[place]) for place, key in enumerate(keys)}

    def read(self, sample: Sample) -> Tensor:
        """The pixels (3, H, W), uint8, of a sample that is there.

        Raises:
            Damaged: the file cannot be decoded, or has other pixels than were written.
            OSError: it cannot be opened.
        """
        found = self._found(sample)
        assert found is not None
        file, place, row = found
        image = torch.from_numpy(self._images(file)[place]).permute(2, 0, 1)
        row.check_pixels(image)
        return image

    def _found(self, sample: Sample) -> tuple[Path, int, PictureRow] | None:
        if self._files is None:
            self.refresh()
        assert self._files is not None
        return self._files.get((sample.seed, sample.index))

    def _images(self, file: Path) -> np.ndarray:
        # Neighbours are read one after the other, so the file read last is the one wanted next.
        state = _state(file)
        if self._last is None or self._last[0] != state:
            self._last = (state, _read(file, lambda archive: _array(archive, "images", "u", 4)))
        return self._last[1]


@functools.lru_cache(maxsize=4096)  # a folder is looked at many times in a run
def _rows(state: State) -> list[PictureRow]:
    """What a file says of its pictures.

    Raises:
        Damaged: it says nothing that is true of the arrays in it.
        OSError: it cannot be opened.
    """
    return _read(state[0], _checked_rows)


def _checked_rows(archive: zipfile.ZipFile) -> list[PictureRow]:
    arrays = {name: _array(archive, name, *kind).tolist() for name, kind in BESIDE.items()}
    columns = [arrays[name] for name in ("index", "prompt", "seed", "sha256")]
    rows = [
        PictureRow(index, prompt, seed, sha256, arrays["pictures"], arrays["batch"])
        for index, prompt, seed, sha256 in zip(*columns, strict=True)
    ]
    with archive.open("images.npy") as member:
        shape, dtype = _header(member)
    whole = len(shape) == 4 and shape[3] == 3 and dtype == np.uint8 and _size(shape, dtype) <= 4 * LARGEST
    if not whole or not 0 < len(rows) == shape[0] or len({(row.seed, row.index) for row in rows}) < len(rows):
        raise Damaged("does not hold what its names say")
    return rows


def _array(archive: zipfile.ZipFile, name: str, kinds: str, dimensions: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        shape, dtype = _header(member)
    # Before anything is read, lest a few bytes ask for all the memory there is.
    if dtype.kind not in kinds or len(shape) != dimensions or (name != "images" and _size(shape, dtype) > TEXTS):
        raise Damaged(f"has no array of {name} as it was written")
    with archive.open(f"{name}.npy") as member:
        found: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
    return found


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(member)
    return shape, dtype


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = dtype.itemsize
    for length in shape:
        size *= length
    return size


def _read(file: Path, act: Callable[[zipfile.ZipFile], T]) -> T:
    try:
        with zipfile.ZipFile(file) as archive:
            return act(archive)
    except Damaged:
        raise
    except Exception as error:  # whatever strange bytes make of zipfile and numpy
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise Damaged("cannot be decoded") from error


def _state(file: Path) -> State:
    found = file.stat()
    return file, found.st_mtime_ns, found.st_ctime_ns, found.st_size
