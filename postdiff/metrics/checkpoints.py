"""Checkpoints that a metric needs and nothing ships: where they are looked for, and one line when they are missing.

A folder or "organisation/name[@revision]" in an environment variable goes before the authors' repository. The hub's own
switches hold: HF_HOME and HF_HUB_CACHE say where files are kept, HF_HUB_OFFLINE that nothing is fetched.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path

from postdiff import model_files
from postdiff.engine.errors import UsageError

__all__ = ["CLIP", "CMMD", "IMAGE_REWARD", "PICK_SCORE", "Checkpoint", "fetched", "hash_of"]


@dataclass(frozen=True)
class Checkpoint:
    """Where the weights behind a metric come from.

    Attributes:
        name: what people call the scorer.
        variable: environment variable that names a folder or a repository in place of `hub`.
        hub: the authors' repository.
        weights: its weight file.
        beside: its other files, as patterns.
        given: folder or repository that goes before the variable, for instance from a config.
    """

    name: str
    variable: str
    hub: str
    weights: str
    beside: tuple[str, ...] = ("*.json", "*.txt")
    given: str | None = None

    def folder(self) -> Path:
        """The folder with the files, fetched if it is in a repository and not on this machine.

        Raises:
            UsageError: no such folder, a file is missing, or it cannot be fetched.
        """
        local = self._local()
        found = local or fetched(self._place(), (self.weights, *self.beside), self._remedy())
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
        return sorted({folder / self.weights, *(file for pattern in self.beside for file in folder.glob(pattern))})

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
        repository, revision = _parts(self._place())
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


def fetched(place: str, files: tuple[str, ...], remedy: str) -> Path:
    """A repository's folder on this machine, with these files of it.

    Args:
        place: "organisation/name[@revision]".
        files: names or patterns.
        remedy: what to do when it cannot be had.

    Raises:
        UsageError: it is not on this machine and cannot be fetched.
    """
    import huggingface_hub
    from huggingface_hub import constants

    repository, revision = _parts(place)
    offline = huggingface_hub.is_offline_mode()
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(files), local_files_only=offline
        )
    # What the hub's client raises without a connection depends on the HTTP library beneath it.
    except Exception as error:
        cause = error.__cause__ or error
        reason = textwrap.shorten(f"{type(cause).__name__}: {cause}", 200, placeholder=" ...")
        why = "HF_HUB_OFFLINE is set" if offline else f"could not be fetched ({reason})"
        raise UsageError(f"{place} is not in {constants.HF_HUB_CACHE}, and {why}; connect once, or {remedy}") from error
    return Path(folder)


def _parts(place: str) -> tuple[str, str | None]:
    repository, _, revision = place.partition("@")
    return repository, revision or None


def hash_of(file: Path) -> str:
    """16 hexadecimal digits of a file's content."""
    return model_files.sha256(file)[:16]
