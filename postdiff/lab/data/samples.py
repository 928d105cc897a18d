"""What is generated: samples of a data set in batches, parts of the work, and the Lightning data module of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from postdiff.engine.errors import UsageError, shown
from postdiff.lab.data.data_cards import Prompt

__all__ = [
    *("PromptDataModule", "Sample", "Shard", "batch_name", "batches", "generator", "measured_batches"),
    *("measured_share", "pairs", "part_of", "samples"),
]

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One image to make, or one frame of a video.

    A video is kept, measured and counted as its frames: image metrics are means over all frames of all videos.

    Attributes:
        index: the image's number: the place of its line in the file, times `frames`, plus its place in the video.
        prompt: the text.
        seed: of the run, one of its `seeds`.
        image: see `Prompt`.
        label: see `Prompt`.
        frames: images that one call of the pipeline makes of the line; 1 but for videos.
        own_seed: see `Prompt`.
        mask: see `Prompt`.
    """

    index: int
    prompt: str
    seed: int
    image: Path | None = None
    label: int | None = None
    frames: int = 1
    own_seed: int | None = None
    mask: Path | None = None

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
        numbers = slash and len(text) <= 20 and first.isdecimal() and second.isdecimal()
        if not numbers or not 1 <= int(first) <= int(second):
            raise UsageError(f"--shard {shown(text)} is no part; write i/n with 1 <= i <= n, for instance 1/4")
        return cls(int(first), int(second))


def pairs(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
    """Every pair of prompt and seed, seed by seed."""
    return samples([Prompt(prompt) for prompt in prompts], seeds)


def samples(entries: Sequence[Prompt], seeds: Sequence[int], frames: int = 1) -> list[Sample]:
    """Every image of every line with every seed, seed by seed."""
    return [
        Sample(line * frames + frame, entry.prompt, seed, entry.image, entry.label, frames, entry.seed, entry.mask)
        for seed in seeds
        for line, entry in enumerate(entries)
        for frame in range(frames)
    ]


def generator(sample: Sample) -> torch.Generator:
    """The sample's own random numbers: the same whatever the batch, the device or the other prompts.

    Seed and place of the line decide them, so that no two lines of a run begin with the same noise. A line with a seed
    of its own is drawn with that seed as it is, plus the run's: with the run's seed 0 the numbers are those of
    `torch.Generator("cpu").manual_seed(own)`, which others generate the same set with, in whatever order or choice.
    """
    if sample.own_seed is not None:
        return torch.Generator("cpu").manual_seed(sample.own_seed + sample.seed)
    name = hashlib.sha256(f"{sample.seed}:{sample.line}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(name[:7], "big"))


def batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """The samples of each call of the network: a matter of the plan alone, not of what is there or of who generates.

    Which images are generated together moves their last bits. So whoever generates one of a batch generates the whole
    batch.

    Args:
        samples: all of a row, in order.
        batch_size: calls of the pipeline in a batch; a video is one call, and stays whole.
    """
    calls: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        calls.setdefault(sample.call, []).append(sample)
    groups = list(calls.values())
    return [list(itertools.chain(*groups[start : start + batch_size])) for start in range(0, len(groups), batch_size)]


def batch_name(batch: Sequence[Sample]) -> str:
    """The same for batches of the same calls in the same order."""
    calls = list(dict.fromkeys(sample.call for sample in batch))
    return hashlib.sha256(repr(calls).encode()).hexdigest()[:12]


def measured_batches(samples: Sequence[Sample], batch_size: int) -> dict[int, list[list[Sample]]]:
    """Batches to measure, {seed: its batches}: cut where a seed ends, since each seed has its own metrics.

    Args:
        samples: those whose images are stored, in order.
        batch_size: images in a batch.
    """
    found: dict[int, list[list[Sample]]] = {}
    for start in range(0, len(samples), batch_size):
        for seed, batch in itertools.groupby(samples[start : start + batch_size], lambda sample: sample.seed):
            found.setdefault(seed, []).append(list(batch))
    return found


def measured_share(found: dict[int, list[list[Sample]]], device: Shard) -> list[list[Sample]]:
    """One device's part of the batches to measure: of each seed neighbouring ones, so that joined they are in order."""
    own = []
    for batches in found.values():
        first, last = (len(batches) * number // device.of for number in (device.number - 1, device.number))
        own += batches[first:last]
    return own


def part_of(found: Sequence[T], part: Shard | None) -> list[T]:
    """The batches of one part of the work: they are dealt out in turns, so that all parts are equally hard."""
    return list(found if part is None else found[part.number - 1 :: part.of])


class PromptDataModule(LightningDataModule):
    """A row's samples for a Lightning trainer: when predicting, see `batches`; when testing, `measured_batches`."""

    def __init__(self, samples: Sequence[Sample], batch_size: int) -> None:
        super().__init__()
        self.samples, self.batch_size = samples, batch_size

    def transfer_batch_to_device(self, batch: list[Sample], *_: Any) -> list[Sample]:
        """Samples are text and numbers; there is nothing to move."""
        return batch

    def predict_dataloader(self) -> DataLoader[list[Sample]]:
        return DataLoader(batches(self.samples, self.batch_size), batch_size=None, collate_fn=list)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[list[Sample]]:
        measured = itertools.chain(*measured_batches(self.samples, self.batch_size).values())
        return DataLoader(list(measured), batch_size=None, collate_fn=list)  # type: ignore[arg-type]
