"""Where things are written: `outputs/`, or the folder in the environment variable POSTDIFF_OUTPUTS.

What is being written has a temporary name until it is whole. The name says which process writes it, so that what a
killed process left is told from what is being written, and from the hidden files of others.

When several processes share the folder, whoever comes second waits. A lock is a locked file below `outputs/locks`; the
operating system opens it when its holder ends, however it ends.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded

__all__ = [
    *("Say", "atomic_write", "committed_records", "discard", "lock", "outputs", "refuse_folder", "refuse_link"),
    *("remove_stale_files", "temporary_name", "writable_outputs"),
]

TEMPORARY = re.compile(r"\.postdiff-(?P<machine>[0-9a-f]{12})-(?P<pid>\d{1,9})-[0-9a-f]{8}(\.\w+)?")
# Seconds without a change after which a file of a process that cannot be looked at is taken for left over.
QUIET = 24 * 3600.0
# Folders of outputs that every command sweeps; one of images holds many files, and is swept when it is worked on.
SWEPT = ("records", "grids", "exports", "data", "profiles", "calibrations", "locks")
Say = Callable[[str], None]
LOOK_AGAIN = 0.5  # seconds between two looks whether a lock is free
SILENT = 3.0  # seconds that a lock may be waited for without a word


def outputs() -> Path:
    """Root of everything that a run writes."""
    return expanded(os.environ.get("POSTDIFF_OUTPUTS") or "outputs")


def committed_records() -> Path:
    """Records that the repository carries; the folder is absent outside a checkout."""
    return Path(__file__).parents[3] / "experiments" / "records"


def writable_outputs() -> Path:
    """The root, made if need be and swept; asked for before any model is loaded.

    Raises:
        UsageError: nothing can be written there.
    """
    root = outputs()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UsageError(
            f"output folder {root} cannot be written ({error.strerror or error}); set POSTDIFF_OUTPUTS to one that can"
        ) from error
    for name in SWEPT:
        remove_stale_files(root / name)
    return root


@contextmanager
def atomic_write(file: Path, sweeping: bool = True) -> Iterator[Path]:
    """A temporary name beside `file`; takes its place when the block ends well, and vanishes when it does not.

    Args:
        file: to write.
        sweeping: whether to look through its folder for what killed processes left, and remove that.

    Raises:
        UsageError: there is a folder of that name.
        OSError: with the name of the file that cannot be written, for instance since the disk is full.
    """
    refuse_folder(file)
    temporary = file.with_name(temporary_name(file.suffix))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if sweeping:
            remove_stale_files(file.parent, deep=False)
        # Results are for everybody whom the umask lets read them; nothing that is there already is opened.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        temporary.replace(file)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(file)  # a write that fails does not say what it wrote
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def _print(line: str) -> None:
    print(f"postdiff: {line}", file=sys.stderr, flush=True)


@contextmanager
def lock(name: str, say: Say = _print) -> Iterator[None]:
    """A lock, for as long as the block runs.

    Args:
        name: of what only one process at a time may write, for instance "records/demo/deepcache".
        say: told once for whom this process waits.

    Raises:
        UsageError: the file system cannot lock.
    """
    file = outputs() / "locks" / f"{name}.lock"
    holder = file.with_suffix(".who")
    held = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                held.acquire(SILENT, LOOK_AGAIN)
            except Timeout:
                say(f"waiting for {_holder_in(holder)}, which holds {file}")
                held.acquire(-1, LOOK_AGAIN)
        if caught:
            _warn_of_soft_locks(str(outputs()))
    except OSError as error:
        raise UsageError(
            f"{file} cannot be locked ({error.strerror or error}); set POSTDIFF_OUTPUTS to a folder on a file system "
            "with locks"
        ) from error
    try:
        with atomic_write(holder) as temporary:  # takes the place of a link, and follows none
            temporary.write_text(f"process {os.getpid()} on {socket.gethostname()[:40]}")
        yield
    finally:
        held.release()


def _holder_in(holder: Path) -> str:
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


def refuse_folder(file: Path) -> None:
    """Refuse to write a file where a folder stands, before the work for it is done.

    Raises:
        UsageError: there is one.
    """
    if file.is_dir():
        raise UsageError(f"{file} is a folder, and a file must go there; remove or rename the folder")


def refuse_link(folder: Path) -> None:
    """Refuse to remove a folder that is a link.

    Raises:
        UsageError: it is one.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link, and nothing behind a link is removed; remove what it leads to yourself")


def discard(folder: Path) -> None:
    """Take a folder away at once: whoever looks sees all of it or nothing, also if this process is killed.

    Raises:
        UsageError: it is a link, and what is behind a link is not removed.
        OSError: it cannot be renamed.
    """
    refuse_link(folder)
    gone = folder.with_name(temporary_name())
    with suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_stale_files(folder: Path, deep: bool = True) -> int:
    """Remove what killed processes left half-written.

    A process of this machine is looked for by its number. One of another machine, or of another container, cannot be
    looked for: its file stays until it has not changed for a day by the clock of its own file system.

    Args:
        folder: where to look; links are not followed.
        deep: also below it.

    Returns:
        How many files, or folders on their way out, those were.
    """
    removed = 0
    for place, inner, files in os.walk(folder):
        for name in (*inner, *files):
            found = TEMPORARY.fullmatch(name)
            if found is None or not _left_over(file := Path(place, name), found["machine"], int(found["pid"])):
                continue
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file, ignore_errors=True)
            else:
                with suppress(OSError):  # another process has swept it, or it is not ours to remove
                    file.unlink()
            removed += not os.path.lexists(file)
        inner[:] = [name for name in inner if deep and not TEMPORARY.fullmatch(name)]
    return removed


def temporary_name(suffix: str = "") -> str:
    """A name for what this process is about to write; no two are equal."""
    return f".postdiff-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _left_over(file: Path, machine: str, pid: int) -> bool:
    try:
        if machine == _machine():
            os.kill(pid, 0)
            return False
        with tempfile.TemporaryFile(dir=file.parent) as probe:
            return os.fstat(probe.fileno()).st_mtime - file.lstat().st_mtime > QUIET
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's process; or gone, or nothing can be written there and so nothing removed


@functools.cache
def _machine() -> str:
    """The same for processes that can look for each other: one start of one kernel, one space of process numbers."""
    try:
        known = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        known = socket.gethostname()
    return hashlib.sha256(known.encode()).hexdigest()[:12]
