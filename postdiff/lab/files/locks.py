"""Who may write what, when several processes share an outputs folder: whoever comes second waits.

A lock is a locked file below `outputs/locks`; the operating system opens it when its holder ends, however it ends.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders

__all__ = ["Say", "held"]

Say = Callable[[str], None]
LOOK_AGAIN = 0.5  # seconds between two looks whether a lock is free
SILENT = 3.0  # seconds that a lock may be waited for without a word


def _print(line: str) -> None:
    print(f"postdiff: {line}", file=sys.stderr, flush=True)


@contextmanager
def held(name: str, say: Say = _print) -> Iterator[None]:
    """A lock, for as long as the block runs.

    Args:
        name: of what only one process at a time may write, for instance "records/demo/deepcache".
        say: told once for whom this process waits.

    Raises:
        UsageError: the file system cannot lock.
    """
    file = folders.outputs() / "locks" / f"{name}.lock"
    holder = file.with_suffix(".who")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                lock.acquire(SILENT, LOOK_AGAIN)
            except Timeout:
                say(f"waiting for {_message(holder)}, which holds {file}")
                lock.acquire(-1, LOOK_AGAIN)
        if caught:
            _warn_of_soft_locks(str(folders.outputs()))
    except OSError as error:
        raise UsageError(
            f"{file} cannot be locked ({error.strerror or error}); set POSTDIFF_OUTPUTS to a folder on a file system "
            "with locks"
        ) from error
    try:
        with folders.atomic_write(holder) as temporary:  # takes the place of a link, and follows none
            temporary.write_text(f"process {os.getpid()} on {socket.gethostname()[:40]}")
        yield
    finally:
        lock.release()


def _message(holder: Path) -> str:
    """Who holds a lock, as its file says; anybody may have written it."""
    with suppress(OSError, UnicodeDecodeError):
        if holder.is_file() and holder.stat().st_size < 100:
            text = holder.read_text(encoding="utf-8")
            if text.startswith("process ") and text.isprintable():
                return text
    return "another process"


@functools.cache
def _warn_of_soft_locks(root: str) -> None:
    """A file system without locks is told of once, and not at every lock."""
    _print(f"warning: the file system of {root} has no locks, so files stand in for them; better use another one")
