"""A folder of finished images, so that a broken-off run goes on where it stopped.

`<seed>/<index>.png` are the images; `manifest.csv` lists them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os.path import isfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.lab.data.samples import Sample, Shard, batch_name
from postdiff.lab.files import folders
from postdiff.lab.files.folders import Say
from postdiff.lab.images import marked_png
from postdiff.lab.images.marked_png import CorruptImageError

__all__ = ["ImageFolder"]

COLUMNS = ("index", "prompt", "seed", "sha256", "file")

# What was found whole in this process, by file, time and size: references are asked for by every row.
_known_whole: set[tuple[Any, ...]] = set()


class ImageFolder:
    """Images of one setting.

    Args:
        folder: named after the hash of all that decides the pixels, so images of two settings never mix.
        batches: the batch that each image is to be generated in, by seed and index; of others it may be any.
    """

    def __init__(self, folder: Path, batches: Mapping[tuple[int, int], str] | None = None) -> None:
        self.folder, self.batches = folder, batches or {}

    def file(self, sample: Sample) -> Path:
        """Where the image of a sample is, or will be."""
        return self.folder / str(sample.seed) / f"{sample.index:05d}.png"

    @contextmanager
    def lock(self, part: Shard | None, say: Say) -> Iterator[None]:
        """The right to generate the images, or one part of them; whoever would generate the same ones waits.

        Parts of two divisions do not wait for each other: at worst they generate equal images.

        Args:
            part: which one; None means all images, for which parts that others generate are waited for too.
            say: told for whom this process waits.
        """
        name = self.folder.name
        with ExitStack() as stack:
            if part is not None:
                stack.enter_context(folders.lock(f"{name}/{part.number}-of-{part.of}", say))
            else:
                parts = sorted((folders.outputs() / "locks" / name).glob("*-of-*.lock"))
                for one in ("all", *(file.stem for file in parts)):
                    stack.enter_context(folders.lock(f"{name}/{one}", say))
            yield

    def has(self, sample: Sample) -> bool:
        """Whether there is a file for the image that does not say that it was generated in another batch."""
        file = self.file(sample)
        if not file.is_file():
            return False
        try:
            with marked_png.opened(file) as (row, _):
                return row.batch == self.batches.get((sample.seed, sample.index), row.batch)
        except CorruptImageError:
            return True  # whoever reads it is told

    def write(self, samples: Sequence[Sample], images: Tensor) -> None:
        """Save images (B, 3, H, W), uint8, of one batch, or some of a batch: each whole, or not at all."""
        batch = self.batches.get((samples[0].seed, samples[0].index)) or batch_name(samples)
        for sample, image in zip(samples, images, strict=True):
            content = marked_png.encode(sample, image, self.folder.name, batch)
            with folders.atomic_write(self.file(sample), sweeping=False) as temporary:
                temporary.write_bytes(content)

    def read(self, samples: Sequence[Sample]) -> Tensor:
        """Load images as (B, 3, H, W), uint8.

        Raises:
            UsageError: an image is missing or damaged, or none of these settings, sample and batch.
        """
        found = []
        for sample in samples:
            batch = self.batches.get((sample.seed, sample.index))
            try:
                found.append(marked_png.read(self.file(sample), sample, self.folder.name, batch))
            except (CorruptImageError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise UsageError(
                    f"image {self.file(sample)} cannot be read ({reason}); remove it and run the row again"
                ) from error
        return torch.stack(found)

    def damaged(self, samples: Iterable[Sample], since: int | None = None) -> dict[Path, str]:
        """Files that are not the images of these samples, generated in their batches, each with the reason.

        Args:
            samples: whose images to look at.
            since: of a file that has not changed since then, in nanoseconds, only what it says is read, not its pixels.

        Raises:
            UsageError: an image may not be opened, or a folder stands in its place.
        """
        found = {}
        for sample in samples:
            file = self.file(sample)
            folders.refuse_folder(file)
            if not file.is_file():
                continue
            try:
                state = file.stat()
                wanted = sample, self.folder.name, self.batches.get((sample.seed, sample.index))
                known = (str(file), state.st_mtime_ns, state.st_ctime_ns, state.st_size, *wanted)
                if since is not None and state.st_ctime_ns < since:
                    with marked_png.opened(file) as (row, _):
                        row.check(*wanted)
                elif known not in _known_whole:
                    marked_png.read(file, *wanted)
                    _known_whole.add(known)
            except CorruptImageError as error:
                found[file] = str(error)
            except FileNotFoundError:
                continue  # gone in this moment
            except OSError as error:
                raise UsageError(
                    f"image {file} cannot be opened ({error.strerror or error}); allow it or remove the image"
                ) from error
        return found

    def repair(self, samples: Sequence[Sample]) -> dict[Path, str]:
        """Remove damaged files and what killed processes left, so that what is there is whole.

        Returns:
            The damaged files, each with the reason.

        Raises:
            UsageError: an image may not be opened, or a folder stands in its place.
        """
        folders.remove_stale_files(self.folder)
        every: dict[Path, str] = {}
        for sample in samples:
            found = self.damaged([sample])
            for file in found:  # at once, since another process may be writing it anew
                file.unlink(missing_ok=True)
            every |= found
        return every

    def list_in_manifest(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add images to `manifest.csv`, sorted by seed and index, and leave out those that are gone.

        Args:
            rows: with at least index, prompt, seed and sha256.
        """
        with folders.lock(f"{self.folder.name}/manifest"):
            file = self.folder / "manifest.csv"
            before = file.read_bytes() if file.is_file() else b""
            try:
                lines = list(csv.DictReader(io.StringIO(before.decode(), newline="")))
                whole = [line for line in lines if set(line) == set(COLUMNS) and None not in line.values()]
                listed = {(int(line["seed"]), int(line["index"])): line for line in whole}
            except (ValueError, csv.Error):
                listed = {}  # of a damaged one nothing, since every row adds its images again
            for row in rows:
                sample = Sample(int(row["index"]), str(row["prompt"]), int(row["seed"]))
                place = self.file(sample).relative_to(self.folder).as_posix()
                listed[sample.seed, sample.index] = {**{name: str(row[name]) for name in COLUMNS[:4]}, "file": place}
            stream = io.StringIO(newline="")
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(listed[key] for key in sorted(listed) if isfile(self.folder / listed[key]["file"]))
            if (content := stream.getvalue().encode()) != before:
                with folders.atomic_write(file) as temporary:
                    temporary.write_bytes(content)
