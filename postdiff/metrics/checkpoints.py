"""Weights that a metric needs and nothing ships: where they are looked for, and one line when they are missing."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from postdiff import hub, model_files
from postdiff.engine.errors import UsageError

__all__ = ["CLIP", "CMMD", "IMAGE_REWARD", "PICK_SCORE", "Checkpoint", "WeightFile"]

BESIDE = ("*.json", "*.txt")  # configs and vocabulary, by the weights


@dataclass(frozen=True)
class Checkpoint:
    """Where a folder of weights comes from: the authors' repository on the hub, or what goes before it.

    A folder or "organisation/name[@revision]" in an environment variable does.

    Attributes:
        name: what people call the scorer.
        variable: environment variable that names a folder or a repository in place of `hub`.
        hub: the authors' repository.
        weights: its weight file.
        given: folder or repository that goes before the variable, for instance from a config.
    """

    name: str
    variable: str
    hub: str
    weights: str
    given: str | None = None

    def folder(self) -> Path:
        """The folder with the files, fetched if it is in a repository and not on this machine.

        Raises:
            UsageError: no such folder, a file is missing, or it cannot be fetched.
        """
        if (found := self._local()) is None:
            remedy = f"set {self.variable} to a folder with its files"
            found = hub.fetch_files(*hub.parts(self._place()), (self.weights, *BESIDE), remedy)
        if not (found / self.weights).is_file():
            raise UsageError(f"{self.name}: {found} has no {self.weights}; {self._remedy()}")
        return found

    def files(self, folder: Path) -> list[Path]:
        """What is read of the folder.

        Raises:
            UsageError: the weights lead to a pickle, though they should be in safetensors format.
        """
        if self.weights.endswith(model_files.WEIGHTS):
            return model_files.of_part(folder)
        return sorted({folder / self.weights, *(file for pattern in BESIDE for file in folder.glob(pattern))})

    def identity(self, fetched_to: Path | None = None) -> str:
        """Which weights, configs and vocabulary: 16 hexadecimal digits of a folder's files, or "repository@revision".

        Args:
            fetched_to: what `folder` gave; the revision is then the exact commit, by which the hub names its folders.

        Raises:
            UsageError: the environment variable names a folder that is missing or holds no weights.
        """
        if self._local() is not None:
            folder = self.folder()
            return model_files.identity(self.files(folder), folder)[:16]
        repository, revision = hub.parts(self._place())
        return f"{repository}@{fetched_to.name if fetched_to else revision or 'main'}"

    def _place(self) -> str:
        return self.given or os.environ.get(self.variable) or self.hub

    def _local(self) -> Path | None:
        place = self._place()
        if (folder := Path(place).expanduser()).is_dir():
            return folder
        # A repository has one slash and does not begin with it: all else was meant as a folder.
        if place.count("/") != 1 or place.startswith(("/", ".", "~")):
            said = f"model={place}" if self.given else f"{self.variable}={place}"
            raise UsageError(f"{self.name}: {said} is no folder; {self._remedy()}")
        return None

    def _remedy(self) -> str:
        return f"set {self.variable} to a folder with the files of {self.hub}, or to a repository of the hub"


PICK_SCORE = Checkpoint("PickScore", "POSTDIFF_PICKSCORE", "yuvalkirstain/PickScore_v1", "model.safetensors")
CLIP = Checkpoint("CLIP", "POSTDIFF_CLIP", "openai/clip-vit-large-patch14", "model.safetensors")
CMMD = Checkpoint("CMMD's CLIP", "POSTDIFF_CMMD", "openai/clip-vit-large-patch14-336", "model.safetensors")
IMAGE_REWARD = Checkpoint("ImageReward", "POSTDIFF_IMAGEREWARD", "THUDM/ImageReward", "ImageReward.pt")


@dataclass(frozen=True)
class WeightFile:
    """One file of weights, which a library would fetch by itself in the middle of a run.

    Attributes:
        name: what people call the network.
        variable: environment variable that may name the file or its folder.
        address: where it is published.
    """

    name: str
    variable: str
    address: str

    @property
    def file_name(self) -> str:
        """What it is called where it is published."""
        return self.address.rpartition("/")[2]

    def given(self, place: str | None) -> Path | None:
        """The file that `place`, or else the variable, names; None if neither does."""
        named = place or os.environ.get(self.variable)
        file = Path(named).expanduser() if named else None
        return file / self.file_name if file is not None and file.is_dir() else file

    def place(self, place: str | None = None) -> Path:
        """The same, or where torch keeps what it fetches."""
        return self.given(place) or Path(torch.hub.get_dir()) / "checkpoints" / self.file_name

    def found(self, what: str, place: str | None = None) -> Path:
        """The file, checked to hold tensors and nothing else.

        Args:
            what: the metric and what it needs, for messages.
            place: a file that goes before the variable.

        Raises:
            UsageError: there is none, or it is no file of tensors.
        """
        file = self.place(place)
        if not file.is_file():
            raise UsageError(
                f"{what}, and there is no file {file}; get it from {self.address} and set {self.variable} to it"
            )
        try:
            torch.load(file, map_location="cpu", weights_only=True)
        # What it raises depends on the first bytes of what is no such file.
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError):
            raise UsageError(f"{what}, and {file} holds something else; get it from {self.address}") from None
        return file.resolve()

    @contextmanager
    def in_place(self, file: Path) -> Iterator[None]:
        """Within the block, torch.hub has fetched the address already, and it is this file."""
        before = torch.hub.get_dir()
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "checkpoints"
            kept.mkdir()
            (kept / self.file_name).symlink_to(file)
            torch.hub.set_dir(folder)
            try:
                yield
            finally:
                torch.hub.set_dir(before)
