"""Who may write what, when several processes share an outputs folder.

A lock is a locked file below `outputs/locks`; the operating system opens it when its holder ends, however it ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.inputs.data import Shard

__all__ = ["making", "writing"]

Say = Callable[[str], None]
LOOK_AGAIN = 0.5  # seconds between two looks whether a lock is free


@contextmanager
def making(folder: Path, shard: Shard | None, say: Say) -> Iterator[None]:
    """The right to make the pictures of a folder, or of one part of them.

    Parts of the same division are made side by side; whoever would make the same pictures twice waits.

    Args:
        folder: of the pictures.
        shard: which part; None means all.
        say: told once for whom this process waits.

    Raises:
        UsageError: the file system cannot lock.
    """
    place = folders.outputs() / "locks" / folder.name
    own = place / f"{_name(shard)}.lock"
    told = False
    while True:
        held = FileLock(own)
        with _guard(place):
            holder = _in_the_way(place, shard)
            if holder is None:
                _take(held)
                _sign(own)
                break
        if not told:
            say(f"waiting for {holder}, which makes the same pictures")
            told = True
        time.sleep(LOOK_AGAIN)
    try:
        yield
    finally:
        held.release()


@contextmanager
def writing(name: str) -> Iterator[None]:
    """The right to look at a result and replace it; held for moments only.

    Args:
        name: of the result, for instance "demo/deepcache".
    """
    with _guard(folders.outputs() / "locks" / "records" / name):
        yield


@contextmanager
def _guard(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".guard")
    try:
        lock.acquire()
    except OSError as error:
        raise _unlockable(place, error) from error
    try:
        yield
    finally:
        lock.release()


def _in_the_way(place: Path, shard: Shard | None) -> str | None:
    """Who holds a lock on pictures that a part would make; None if nobody does."""
    for file in sorted(place.glob("*.lock")):
        if not _overlaps(file.stem, shard):
            continue
        probe = FileLock(file)
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return _signature(file)
        probe.release()
    return None


def _overlaps(other: str, shard: Shard | None) -> bool:
    if shard is None or other == _name(None):
        return True
    return other == _name(shard) or not other.endswith(f"-of-{shard.of}")


def _name(shard: Shard | None) -> str:
    return "all" if shard is None else f"{shard.number}-of-{shard.of}"


def _take(lock: FileLock) -> None:
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        raise _unlockable(Path(lock.lock_file).parent, error) from error


def _sign(file: Path) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.with_suffix(".who").write_text(json.dumps({"pid": os.getpid(), "host": folders.host(), "since": since}))


def _signature(file: Path) -> str:
    try:
        who = json.loads(file.with_suffix(".who").read_text())
        return f"process {who['pid']} on {who['host']} (since {who['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


def _unlockable(place: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{place} cannot be locked ({error.strerror or error}); set POSTDIFF_OUTPUTS to a folder on a file system with "
        "locks"
    )
