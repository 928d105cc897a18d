"""A folder of finished pictures, so that a broken-off run goes on where it stopped.

`<seed>/<index>.png`, or `shards/*.npz`; either kind is read, whichever is written. `manifest.csv` lists them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.inputs.data import Sample
from postdiff.lab.storage.picture_rows import Damaged, decoded, encoded
from postdiff.lab.storage.picture_shards import PictureShards

__all__ = ["PictureFolder"]

COLUMNS = ("index", "prompt", "seed", "sha256", "file")

# What was found whole in this process, by file, time and size: references are asked for by every row.
_known_whole: set[tuple[str, int, int, Sample]] = set()


class PictureFolder:
    """Pictures of one setting.

    Args:
        folder: named after the hash of all that decides the pixels, so pictures of two settings never mix.
        store: how new pictures are kept, "png" or "npz".
    """

    def __init__(self, folder: Path, store: str = "png") -> None:
        self.folder, self.store = folder, store
        self.shards = PictureShards(folder / "shards")

    def file(self, sample: Sample) -> Path:
        """Where the picture of a sample is or, as a PNG, will be."""
        single = self.folder / str(sample.seed) / f"{sample.index:05d}.png"
        return single if single.is_file() else self.shards.file(sample) or single

    def has(self, sample: Sample) -> bool:
        """Whether the picture is finished."""
        return self.file(sample).is_file()

    def write(self, samples: Sequence[Sample], images: Tensor) -> None:
        """Save pictures (B, 3, H, W), uint8: a batch takes its place at once, or not at all."""
        if self.store == "npz":
            self.shards.write(samples, images)
            return
        files = [self.folder / str(sample.seed) / f"{sample.index:05d}.png" for sample in samples]
        with folders.whole_files(files) as temporaries:
            for temporary, sample, image in zip(temporaries, samples, images, strict=True):
                temporary.write_bytes(encoded(sample, image))

    def refresh(self) -> None:
        """Look again at what is there, since others may have written."""
        self.shards.refresh()

    def read(self, samples: Sequence[Sample]) -> Tensor:
        """Load pictures as (B, 3, H, W), uint8.

        Raises:
            UsageError: a picture is missing or damaged.
        """
        found = []
        for sample in samples:
            file = self.file(sample)
            try:
                found.append(self._read(file, sample))
            except (Damaged, OSError) as error:
                raise UsageError(f"picture {file} cannot be read; remove it and run the row again") from error
        return torch.stack(found)

    def image(self, sample: Sample) -> Image.Image:
        """One picture as Pillow has it, however it is kept."""
        return Image.fromarray(self.read([sample])[0].permute(1, 2, 0).numpy())

    def damaged(self, samples: Iterable[Sample]) -> dict[Path, str]:
        """Files that do not hold the pictures that were written into them, each with the reason.

        Raises:
            UsageError: a picture may not be opened.
        """
        found = dict.fromkeys(self.shards.refresh(), "cannot be decoded")
        for sample in samples:
            file = self.file(sample)
            if file in found or not file.is_file():
                continue
            state = file.stat()
            key = (str(file), state.st_mtime_ns, state.st_size, sample)
            if key in _known_whole:
                continue
            try:
                self._read(file, sample)
                _known_whole.add(key)
            except Damaged as error:
                found[file] = str(error)
            except OSError as error:
                raise UsageError(
                    f"picture {file} cannot be opened ({error.strerror or error}); allow it or remove the picture"
                ) from error
        return found

    def repair(self, samples: Iterable[Sample]) -> dict[Path, str]:
        """Remove damaged files and what killed processes left, so that what is there is whole.

        Returns:
            The damaged files, each with the reason.

        Raises:
            UsageError: a picture may not be opened.
        """
        folders.sweep(self.folder)
        found = self.damaged(samples)
        for file in found:
            file.unlink(missing_ok=True)
        self.shards.refresh()
        return found

    def list_in_manifest(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add pictures to `manifest.csv`, sorted by seed and index.

        Args:
            rows: with at least index, prompt, seed and sha256.
        """
        file = self.folder / "manifest.csv"
        listed = {(int(row["seed"]), int(row["index"])): row for row in _lines(file)}
        for row in rows:
            sample = Sample(int(row["index"]), str(row["prompt"]), int(row["seed"]))
            place = self.file(sample).relative_to(self.folder).as_posix()
            listed[sample.seed, sample.index] = {**{name: row[name] for name in COLUMNS[:4]}, "file": place}
        with folders.whole_file(file) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(listed[key] for key in sorted(listed) if (self.folder / listed[key]["file"]).is_file())

    def _read(self, file: Path, sample: Sample) -> Tensor:
        return self.shards.read(sample) if file.suffix == ".npz" else decoded(file, sample)


def _lines(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="") as stream:
            return [line for line in csv.DictReader(stream) if set(line) == set(COLUMNS)]
    except (OSError, csv.Error, UnicodeDecodeError):
        return []  # absent, or damaged: it is made from the pictures
