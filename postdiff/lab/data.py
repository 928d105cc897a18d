"""What pictures are made of: data cards, and the Lightning data module that yields every sample.

A data card names a JSON-lines file, one line a picture to make (per seed): its key `prompt`, and where the model takes
more than text, `image` or `class`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab import conditions
from postdiff.lab.conditions import Condition
from postdiff.lab.schema import merged, read_yaml
from postdiff.lab.sources import package_file

__all__ = [
    "DataCard",
    "Entry",
    "PromptDataModule",
    "Sample",
    "Shard",
    "card",
    "generator",
    "pairs",
    "read",
    "read_prompts",
    "samples",
]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass
class DataCard:
    """Prompts as experiments know them, with pictures or classes for the models that take these.

    Attributes:
        summary: one line.
        prompts: JSON-lines file with a key `prompt`, relative to the package.
        images: folder of pictures, relative to the package or absolute. A line's key `image` says which file of it
            belongs to the prompt; if no line has the key, the files in order of their names belong to the lines in
            order.
        condition: what is made of each picture before a pipeline gets it: none, canny, scribble, scribble_xdog.
        classes: number of classes, for a class-conditional model. Line i of `prompts` is the name of class i, unless
            its key `class` says which class it names. With `count` and seeds every class is drawn equally often.
        reference_statistics: safetensors file with mean, covariance and n of real pictures' features, or null.
    """

    summary: str = ""
    prompts: str = ""
    images: str | None = None
    condition: Condition = field(default_factory=Condition)
    classes: int | None = None
    reference_statistics: str | None = None


@dataclass(frozen=True)
class Entry:
    """One line of a data card.

    Attributes:
        prompt: the text, or a class's name.
        picture: file of the picture that goes in, if the card has pictures.
        label: number of the class, if the card has classes.
    """

    prompt: str
    picture: Path | None = None
    label: int | None = None


@dataclass(frozen=True)
class Sample:
    """One picture to make, or one frame of a video.

    A video is kept, measured and counted as its frames: picture metrics are means over all frames of all videos.

    Attributes:
        index: the picture's number: the place of its line in the file, times `frames`, plus its place in the video.
        prompt: the text.
        seed: of the random numbers.
        picture: see `Entry`.
        label: see `Entry`.
        frames: pictures that one call of the pipeline makes of the line; 1 but for videos.
    """

    index: int
    prompt: str
    seed: int
    picture: Path | None = None
    label: int | None = None
    frames: int = 1

    @property
    def line(self) -> int:
        """Place of its line in the file."""
        return self.index // self.frames

    @property
    def frame(self) -> int:
        """Its place in the video."""
        return self.index % self.frames

    @property
    def call(self) -> tuple[int, int]:
        """Samples with the same seed and line come out of one call."""
        return self.seed, self.line


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of` equal parts of the work."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/4".

        Raises:
            UsageError: not of that form, or out of range.
        """
        first, slash, second = text.partition("/")
        if not slash or not first.isdigit() or not second.isdigit() or not 1 <= int(first) <= int(second):
            raise UsageError(f"--shard {text} is no part; write i/n with 1 <= i <= n, for instance 1/4")
        return cls(int(first), int(second))


def card(name: str) -> DataCard:
    """The data card of that name.

    Raises:
        UsageError: no such card; the nearest name is suggested.
    """
    file = catalog.path("data", name)
    found = merged(DataCard, [(str(file), _long_form(read_yaml(file)))])
    try:
        conditions.check(found.condition)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    if found.images is None and found.condition != Condition():
        raise UsageError(
            f"{file}: condition '{found.condition.name}' has no pictures; name their folder under 'images'"
        )
    if found.classes is not None and found.classes < 1:
        raise UsageError(f"{file}: classes={found.classes} is too small; use at least 1")
    return found


def _long_form(values: Mapping[str, Any]) -> dict[str, Any]:
    # `condition: canny` is what everybody writes first.
    if isinstance(values.get("condition"), str):
        return {**values, "condition": {"name": values["condition"]}}
    return dict(values)


def read(data: DataCard) -> list[Entry]:
    """All lines of a card, in the order of its file.

    Raises:
        UsageError: the file is missing or is not JSON lines with a key `prompt`; there are fewer pictures than lines,
            or one is missing or cannot be read; or classes out of range.
    """
    file = package_file(data.prompts)
    if not file.is_file():
        raise UsageError(f"prompt file {file} is missing; name another one in the data card")
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        prompts = [str(line["prompt"]) for line in lines]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file} is not JSON lines with a key 'prompt' in each line") from None
    pictures = [None] * len(lines) if data.images is None else _pictures(package_file(data.images), lines, file)
    labels = [None] * len(lines) if data.classes is None else _labels(data.classes, lines, file)
    return [Entry(*together) for together in zip(prompts, pictures, labels, strict=True)]


def read_prompts(data: DataCard) -> list[str]:
    """The prompts of a card alone; see `read`."""
    return [entry.prompt for entry in read(data)]


def _pictures(folder: Path, lines: Sequence[Mapping[str, Any]], file: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"image folder {folder} is missing; name another one in the data card")
    named = [line["image"] for line in lines if "image" in line]
    if not named:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    elif len(named) < len(lines):
        raise UsageError(f"{file}: {len(named)} of {len(lines)} lines have a key 'image'; give it to all or to none")
    else:
        found = [folder / str(name) for name in named]
    if len(found) < len(lines):
        raise UsageError(f"{folder} holds {len(found)} pictures for {len(lines)} prompts of {file}; add those missing")
    found = found[: len(lines)]
    for path in found:
        if not path.is_file():
            raise UsageError(f"picture {path}, which {file} names, is missing; add it or correct the key 'image'")
        conditions.refuse_unreadable(path)
    return found


def _labels(classes: int, lines: Sequence[Mapping[str, Any]], file: Path) -> list[int]:
    named = [line["class"] for line in lines if "class" in line]
    if not named and len(lines) != classes:
        raise UsageError(f"{file} has {len(lines)} lines for classes={classes}; write one a class, or a key 'class'")
    if named and len(named) < len(lines):
        raise UsageError(f"{file}: {len(named)} of {len(lines)} lines have a key 'class'; give it to all or to none")
    found = named or list(range(classes))
    for label in found:
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < classes:
            raise UsageError(f"{file}: class {label!r} is none of 0 to {classes - 1}; correct it, or classes={classes}")
    return found


def pairs(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
    """Every pair of prompt and seed, seed by seed."""
    return samples([Entry(prompt) for prompt in prompts], seeds)


def samples(entries: Sequence[Entry], seeds: Sequence[int], frames: int = 1) -> list[Sample]:
    """Every picture of every line with every seed, seed by seed."""
    return [
        Sample(line * frames + frame, entry.prompt, seed, entry.picture, entry.label, frames)
        for seed in seeds
        for line, entry in enumerate(entries)
        for frame in range(frames)
    ]


def generator(sample: Sample) -> torch.Generator:
    """The sample's own random numbers: the same whatever the batch, the device or the other prompts."""
    name = hashlib.sha256(f"{sample.seed}:{sample.line}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(name[:7], "big"))


class PromptDataModule(LightningDataModule):
    """Batches of `Sample`: every prompt with every seed, seed by seed.

    Args:
        samples: all of them, for instance from `pairs`.
        batch_size: samples in a batch; when predicting, calls of the pipeline in a batch (videos stay whole).
        shard: which part to yield when predicting; neighbours go to different parts, so parts are equally hard.
        wanted: which samples to yield when testing (those whose picture exists); None means all.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        batch_size: int,
        shard: Shard | None = None,
        wanted: Callable[[Sample], bool] | None = None,
    ) -> None:
        super().__init__()
        self.samples, self.batch_size, self.shard = list(samples), batch_size, shard
        self.wanted = wanted or (lambda sample: True)

    def transfer_batch_to_device(self, batch: list[Sample], *_: Any) -> list[Sample]:
        """Samples are text and numbers; there is nothing to move."""
        return batch

    def predict_dataloader(self) -> DataLoader[list[Sample]]:
        shard = self.shard or Shard(1, 1)
        calls: dict[tuple[int, int], list[Sample]] = {}
        for sample in self.samples:
            calls.setdefault(sample.call, []).append(sample)
        part = list(calls.values())[shard.number - 1 :: shard.of]
        return DataLoader(part, batch_size=self.batch_size, collate_fn=_joined)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[list[Sample]]:
        wanted = [sample for sample in self.samples if self.wanted(sample)]
        return DataLoader(wanted, batch_size=self.batch_size, collate_fn=list)  # type: ignore[arg-type]


def _joined(groups: Sequence[Sequence[Sample]]) -> list[Sample]:
    return list(itertools.chain(*groups))
