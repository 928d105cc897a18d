"""Who may write what, when several processes share an outputs folder.

A lock is a locked file below `outputs/locks`; the operating system opens it when its holder ends, however it ends.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders, typed
from postdiff.lab.samples import Shard

__all__ = ["changing", "making", "writing"]

Say = Callable[[str], None]
LOOK_AGAIN = 0.5  # seconds between two looks whether a lock is free
SILENT = 3.0  # seconds that a lock may be waited for without a word


class _Who(TypedDict):
    pid: int
    host: str
    since: str


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
    place = _place(folder)
    own = place / f"{_name(shard)}.lock"
    told = False
    while True:
        held = FileLock(own)
        with _guard(place):
            holder = _in_the_way(place, shard)
            if holder is None:
                _take(held)
                try:
                    _sign(own)
                except BaseException:
                    held.release()
                    raise
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
def changing(folder: Path) -> Iterator[None]:
    """The right to change what lies beside the pictures of a folder; held for moments only."""
    with _guard(_place(folder)):
        yield


@contextmanager
def writing(name: str) -> Iterator[None]:
    """The right to look at a result and replace it; held for moments only.

    Args:
        name: of the result, for instance "demo/deepcache".
    """
    with _guard(folders.outputs() / "locks" / "records" / name):
        yield


def _place(folder: Path) -> Path:
    return folders.outputs() / "locks" / folder.name


@contextmanager
def _guard(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".guard")
    try:
        try:
            _acquire(lock, SILENT)
        except Timeout:
            _tell(f"waiting for another process, which holds {place / '.guard'}")
            _acquire(lock, -1)
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
            _acquire(probe, 0)
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
        _acquire(lock, 0)
    except OSError as error:
        raise _unlockable(Path(lock.lock_file).parent, error) from error


def _acquire(lock: FileLock, timeout: float) -> None:
    """As the lock's own, but that a file system without locks is told of once, and not at every lock."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lock.acquire(timeout=timeout)
    if caught:
        _told_of_soft_locks(str(folders.outputs()))


@functools.cache
def _told_of_soft_locks(root: str) -> None:
    _tell(f"warning: the file system of {root} has no locks, so files stand in for them; better use another one")


def _tell(line: str) -> None:
    print(f"postdiff: {line}", file=sys.stderr, flush=True)


def _sign(file: Path) -> None:
    who = _Who(pid=os.getpid(), host=folders.host(), since=time.strftime("%Y-%m-%d %H:%M:%S"))
    with folders.whole_file(file.with_suffix(".who")) as temporary:  # takes the place of a link, and follows none
        temporary.write_text(json.dumps(who))


def _signature(file: Path) -> str:
    signed = file.with_suffix(".who")
    try:
        who: _Who = typed.built(_Who, typed.read(signed) if signed.is_file() else None)
    except (OSError, typed.NotAsHinted):
        return "another process"
    if not (who["host"] + who["since"]).isprintable():
        return "another process"
    return f"process {who['pid']} on {who['host'][:40]} (since {who['since'][:19]})"


def _unlockable(place: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{place} cannot be locked ({error.strerror or error}); set POSTDIFF_OUTPUTS to a folder on a file system with "
        "locks"
    )
