"""A folder of finished pictures, so that a broken-off run goes on where it stopped.

`<seed>/<index>.png`, or `shards/*.npz`; either kind is read, whichever is written. `manifest.csv` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders, locks, manifest
from postdiff.lab.images.marked_png import Damaged, PictureRow, decoded, encoded, marked, row_of
from postdiff.lab.samples import Sample, batch_name
from postdiff.lab.storage.picture_shards import PictureShards

__all__ = ["ImageFolder"]

Key = tuple[int, int]

# What was found whole in this process, by file, time and size: references are asked for by every row.
_known_whole: set[tuple[Any, ...]] = set()


class ImageFolder:
    """Pictures of one setting.

    Args:
        folder: named after the hash of all that decides the pixels, so pictures of two settings never mix.
        store: how new pictures are kept, "png" or "npz".
        batches: the batch that each picture is to be drawn in, by seed and index; None means any.
    """

    def __init__(self, folder: Path, store: str = "png", batches: Mapping[Key, str] | None = None) -> None:
        self.folder, self.store, self.batches = folder, store, batches
        self.shards = PictureShards(folder / "shards", folder.name, batches)

    def file(self, sample: Sample) -> Path:
        """Where the picture of a sample is or, as a PNG, will be."""
        single = self._single(sample)
        return single if single.is_file() else self.shards.file(sample) or single

    def there(self, sample: Sample) -> bool:
        """Whether there is a file for the picture, whatever is in it."""
        return self.file(sample).is_file()

    def has(self, sample: Sample) -> bool:
        """Whether there is a file for the picture that does not say that it was drawn in another batch."""
        file = self.file(sample)
        if not file.is_file():
            return False
        try:
            return self.batches is None or self._row(file, sample).batch == self._batch(sample)
        except Damaged:
            return True  # whoever reads it is told

    def write(self, samples: Sequence[Sample], images: Tensor) -> None:
        """Save pictures (B, 3, H, W), uint8, of one batch, or some of a batch: all at once, or none."""
        batch = self._batch(samples[0]) or batch_name(samples)
        if self.store == "npz":
            self.shards.write(samples, images, batch)
            return
        with folders.whole_files([self._single(sample) for sample in samples]) as temporaries:
            for temporary, sample, image in zip(temporaries, samples, images, strict=True):
                temporary.write_bytes(encoded(row_of(sample, image, self.folder.name, batch), image))

    def refresh(self) -> None:
        """Look again at what is there, since others may have written."""
        self.shards.refresh()

    def read(self, samples: Sequence[Sample]) -> Tensor:
        """Load pictures as (B, 3, H, W), uint8.

        Raises:
            UsageError: a picture is missing or damaged, or none of these settings, sample and batch.
        """
        found = []
        for sample in samples:
            file = self.file(sample)
            try:
                found.append(self._read(file, sample))
            except (Damaged, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise UsageError(
                    f"picture {file} cannot be read ({reason}); remove it and run the row again"
                ) from error
        return torch.stack(found)

    def image(self, sample: Sample) -> Image.Image:
        """One picture as Pillow has it, however it is kept."""
        return Image.fromarray(self.read([sample])[0].permute(1, 2, 0).numpy())

    def damaged(self, samples: Iterable[Sample], since: int | None = None) -> dict[Path, str]:
        """Files that are not the pictures of these samples, drawn in their batches, each with the reason.

        Args:
            samples: whose pictures to look at.
            since: of a file that has not changed since then, in nanoseconds, only what it says is read, not its pixels.

        Raises:
            UsageError: a picture may not be opened, or a folder stands in its place.
        """
        found = self.shards.refresh()
        for sample in samples:
            file = self.file(sample)
            folders.refuse_folder(file)
            if file in found or not file.is_file():
                continue
            try:
                self._look(file, sample, since)
            except Damaged as error:
                found[file] = str(error)
            except FileNotFoundError:
                continue  # gone in this moment
            except OSError as error:
                raise UsageError(
                    f"picture {file} cannot be opened ({error.strerror or error}); allow it or remove the picture"
                ) from error
        return found

    def repair(self, samples: Sequence[Sample]) -> dict[Path, str]:
        """Remove damaged files and what killed processes left, so that what is there is whole.

        Returns:
            The damaged files, each with the reason.

        Raises:
            UsageError: a picture may not be opened, or a folder stands in its place.
        """
        folders.sweep(self.folder)
        every: dict[Path, str] = {}
        while found := self.damaged(samples):  # behind a PNG may be a picture in a file of many
            for file in found:
                file.unlink(missing_ok=True)
            every |= found
        return every

    def list_in_manifest(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add pictures to `manifest.csv`, sorted by seed and index, unless they are in it.

        Args:
            rows: with at least index, prompt, seed and sha256.
        """
        with locks.changing(self.folder):
            manifest.add(self.folder, rows, self.file)

    def _single(self, sample: Sample) -> Path:
        return self.folder / str(sample.seed) / f"{sample.index:05d}.png"

    def _batch(self, sample: Sample) -> str | None:
        return None if self.batches is None else self.batches[sample.seed, sample.index]

    def _row(self, file: Path, sample: Sample) -> PictureRow:
        return self.shards.row(sample) if file.suffix == ".npz" else marked(file)

    def _check(self, row: PictureRow, sample: Sample) -> None:
        row.check(sample, self.folder.name, self._batch(sample))

    def _read(self, file: Path, sample: Sample) -> Tensor:
        if file.suffix == ".npz":
            self._check(self.shards.row(sample), sample)
            return self.shards.read(sample)
        return decoded(file, lambda row: self._check(row, sample))

    def _look(self, file: Path, sample: Sample, since: int | None) -> None:
        """Read a file, as far as it is not known already."""
        state = file.stat()
        if since is not None and state.st_ctime_ns < since:
            self._check(self._row(file, sample), sample)
            return
        known = (str(file), state.st_mtime_ns, state.st_ctime_ns, state.st_size, sample, self._batch(sample))
        if known not in _known_whole:
            self._read(file, sample)
            _known_whole.add(known)
