"""Weight files in a folder: safetensors only, and hashes that say which they are."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from postdiff.engine.errors import UsageError

__all__ = [
    "checked_file",
    "checked_network",
    "checked_pipeline",
    "file_hash",
    "network_hash",
    "pipeline_hash",
    "refuse_pickle",
]

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def checked_pipeline(folder: Path) -> Path:
    """The folder itself.

    Raises:
        UsageError: it is no pipeline, or a part of it is in pickle format only.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline: no model_index.json; make one with save_pretrained")
    try:
        components = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        components = None
    if not isinstance(components, dict):
        raise UsageError(f"{index} is not valid JSON, or names no parts; save the pipeline again with save_pretrained")
    for name, value in components.items():
        if not name.startswith("_") and isinstance(value, list) and value[:1] != [None]:
            _refuse_pickles(folder / name)
    return folder


def checked_network(folder: Path) -> Path:
    """The folder itself.

    Raises:
        UsageError: it holds no network, or one in pickle format only.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a diffusers network: no config.json; make one with save_pretrained")
    _refuse_pickles(folder)
    return folder


def checked_file(folder: Path, name: str, what: str) -> Path:
    """A weight file that a card names.

    Args:
        folder: where it should be.
        name: as the card's `weight_name` says.
        what: key of the card, for messages.

    Raises:
        UsageError: it is missing, or in pickle format.
    """
    file = folder / name
    refuse_pickle(file, what)
    if not file.is_file():
        there = sorted(other.name for other in folder.glob(f"*{WEIGHTS}")) if folder.is_dir() else []
        raise UsageError(
            f"{what} file {file} is missing; name the right one under 'weight_name'"
            + (f" ({', '.join(there[:5])} is there)" if there else "")
        )
    return file


def refuse_pickle(file: Path, what: str) -> None:
    """Take nothing but safetensors.

    Raises:
        UsageError: the file's name ends otherwise.
    """
    if file.suffix != WEIGHTS:
        raise UsageError(
            f"{what} file {file} is not in safetensors format; other formats can run code when loaded: convert it "
            "where you trust it, with safetensors.torch.save_file"
        )


def _refuse_pickles(part: Path) -> None:
    files = sorted(part.iterdir()) if part.is_dir() else []
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles and not any(file.suffix == WEIGHTS for file in files):
        raise UsageError(
            f"{pickles[0]} is in pickle format, which can run code when loaded; convert it where you trust it: "
            "pipe.save_pretrained(folder, safe_serialization=True)"
        )


@functools.cache
def pipeline_hash(folder: Path) -> str:
    """16 hexadecimal digits over names and contents of a pipeline's weight files."""
    # The metrics' encoder may stand beside the pipeline; it makes no picture. Nor do files outside its parts.
    encoder = folder / "dual_encoder"
    return _hash(folder, (file for file in folder.glob(f"*/**/*{WEIGHTS}") if encoder not in file.parents))


@functools.cache
def network_hash(folder: Path) -> str:
    """16 hexadecimal digits over names and contents of a single network's weight files."""
    return _hash(folder, folder.glob(f"*{WEIGHTS}"))


def _hash(folder: Path, files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.relative_to(folder).as_posix()} {file_hash(file)}\n".encode())
    return found.hexdigest()[:16]


@functools.cache
def file_hash(file: Path) -> str:
    """SHA-256 of a file, read once a process."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
