"""Prompts: data cards, and the Lightning data module that yields every (prompt, seed) pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab.models import package_file
from postdiff.lab.schema import merged, read_yaml

__all__ = ["DataCard", "PromptDataModule", "Sample", "Shard", "card", "generator", "pairs", "read_prompts"]


@dataclass
class DataCard:
    """Prompts as experiments know them.

    Attributes:
        summary: one line.
        prompts: JSON-lines file with a key `prompt`, relative to the package.
        reference_statistics: safetensors file with mean, covariance and n of real pictures' features, or null.
    """

    summary: str = ""
    prompts: str = ""
    reference_statistics: str | None = None


@dataclass(frozen=True)
class Sample:
    """One picture to make: the prompt, its place in the file, and the seed."""

    index: int
    prompt: str
    seed: int


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
    return merged(DataCard, [(str(file), read_yaml(file))])


def read_prompts(data: DataCard) -> list[str]:
    """All prompts of a card, in the order of its file.

    Raises:
        UsageError: the file is missing or is not JSON lines with a key `prompt`.
    """
    file = package_file(data.prompts)
    if not file.is_file():
        raise UsageError(f"prompt file {file} is missing; name another one in the data card")
    try:
        return [str(json.loads(line)["prompt"]) for line in file.read_text().splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file} is not JSON lines with a key 'prompt' in each line") from None


def pairs(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
    """Every pair, seed by seed."""
    return [Sample(index, prompt, seed) for seed in seeds for index, prompt in enumerate(prompts)]


def generator(sample: Sample) -> torch.Generator:
    """The sample's own random numbers: the same whatever the batch, the device or the other prompts."""
    name = hashlib.sha256(f"{sample.seed}:{sample.index}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(name[:7], "big"))


class PromptDataModule(LightningDataModule):
    """Batches of `Sample`: every prompt with every seed, seed by seed.

    Args:
        samples: all pairs, for instance from `pairs`.
        batch_size: samples in a batch.
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
        return self._loader(self.samples[shard.number - 1 :: shard.of])

    def test_dataloader(self) -> DataLoader[list[Sample]]:
        return self._loader([sample for sample in self.samples if self.wanted(sample)])

    def _loader(self, samples: list[Sample]) -> DataLoader[list[Sample]]:
        return DataLoader(samples, batch_size=self.batch_size, collate_fn=list)  # type: ignore[arg-type]
