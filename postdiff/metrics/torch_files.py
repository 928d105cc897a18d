"""Weight files that a library would fetch by itself: found on this machine first, or told in one line."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from postdiff.engine.errors import UsageError

__all__ = ["found", "in_place_of", "place_of"]


def place_of(address: str, variable: str, place: str | None = None) -> Path:
    """Where the file is or should be: `place`, or the file in the variable, or where torch keeps what it fetches."""
    given = place or os.environ.get(variable)
    name = address.rpartition("/")[2]
    file = Path(given).expanduser() if given else Path(torch.hub.get_dir()) / "checkpoints" / name
    return file / name if file.is_dir() else file


def found(what: str, address: str, variable: str, place: str | None = None) -> Path:
    """The file that a library would fetch from an address, checked to hold tensors and nothing else.

    Args:
        what: the metric and what it needs, for messages.
        address: where the library would fetch it.
        variable: environment variable that may name it.
        place: a file that goes before the variable.

    Raises:
        UsageError: there is none, or it is no file of tensors.
    """
    file = place_of(address, variable, place)
    if not file.is_file():
        raise UsageError(f"{what}, and there is no file {file}; get it from {address} and set {variable} to it")
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    # What it raises depends on the first bytes of what is no such file.
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError):
        raise UsageError(f"{what}, and {file} holds something else; get it from {address}") from None
    return file.resolve()


@contextmanager
def in_place_of(address: str, file: Path) -> Iterator[None]:
    """Within the block, torch.hub has already fetched `address`, and it is this file."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "checkpoints"
        kept.mkdir()
        (kept / address.rpartition("/")[2]).symlink_to(file)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
