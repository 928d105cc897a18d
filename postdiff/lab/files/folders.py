"""Where things are written: `outputs/`, or the folder in the environment variable POSTDIFF_OUTPUTS.

What is being written has a temporary name until it is whole. The name says which process writes it, so that what a
killed process left is told from what is being written, and from the hidden files of others.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from postdiff.engine.errors import UsageError
from postdiff.engine.values import expanded

__all__ = [
    "committed_records",
    "discard",
    "host",
    "outputs",
    "refuse_folder",
    "refuse_link",
    "sweep",
    "temporary_name",
    "whole_file",
    "whole_files",
    "writable_outputs",
]

TEMPORARY = re.compile(r"\.postdiff-(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-(?P<began>\d+)-[0-9a-f]{8}(\.\w+)?")
# Seconds without a change after which a file of a process that cannot be looked at is taken for left over.
QUIET = 24 * 3600.0
# Folders of outputs that every command sweeps; one of pictures holds many files, and is swept when it is worked on.
SWEPT = ("records", "grids", "exports", "data", "profiles", "calibrations", "locks")


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
        sweep(root / name)
    return root


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A temporary name beside `file`; takes its place when the block ends well, and vanishes when it does not.

    What killed processes left beside it is swept.

    Raises:
        UsageError: there is a folder of that name.
        OSError: with the name of the file that cannot be written.
    """
    if file.parent.is_dir():
        sweep(file.parent, deep=False)
    with whole_files([file]) as [temporary]:
        yield temporary


@contextmanager
def whole_files(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary names beside `files`; they take their places one right after the other when the block ends well.

    Raises:
        UsageError: there is a folder of such a name.
        OSError: with the name of the file that cannot be written, for instance since the disk is full.
    """
    with ExitStack() as undo:
        temporaries = []
        try:
            for file in files:
                refuse_folder(file)
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = file.with_name(temporary_name(file.suffix))
                # Results are for everybody whom the umask lets read them; nothing that is there already is opened.
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                undo.callback(temporary.unlink, missing_ok=True)
                temporaries.append(temporary)
            yield temporaries
            for temporary, file in zip(temporaries, files, strict=True):
                temporary.replace(file)
        except OSError as error:
            if error.errno is not None and error.filename is None and files:
                error.filename = str(files[0])  # a write that fails does not say what it wrote
            raise


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
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path, deep: bool = True) -> int:
    """Remove what killed processes left half-written.

    A process of this machine is looked for by its number and the time it began. One of another machine, or of another
    container, cannot be looked for: its file stays until it has not changed for a day by the clock of its own file
    system.

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
            if found is not None and _left_over(Path(place, name), found):
                removed += _removed(Path(place, name))
        inner[:] = [name for name in inner if deep and not TEMPORARY.fullmatch(name)]
    return removed


def temporary_name(suffix: str = "") -> str:
    """A name for what this process is about to write; no two are equal."""
    pid = os.getpid()
    return f".postdiff-{_machine()}-{pid}-{_began(pid) or 0}-{secrets.token_hex(4)}{suffix}"


def host() -> str:
    """Name of this machine, as people know it."""
    return re.sub(r"[^\w.-]", "", socket.gethostname())[:40] or "host"


def _left_over(file: Path, name: re.Match[str]) -> bool:
    if name["machine"] == _machine():
        return _ended(int(name["pid"]), int(name["began"]))
    try:
        changed = file.lstat().st_mtime
        with tempfile.TemporaryFile(dir=file.parent) as probe:
            return os.fstat(probe.fileno()).st_mtime - changed > QUIET
    except OSError:
        return False  # gone, or nothing can be written there and so nothing removed


def _removed(file: Path) -> bool:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file, ignore_errors=True)
        return not file.exists()
    try:
        file.unlink()
    except OSError:
        return False  # another process has swept it, or it is not ours to remove
    return True


@functools.cache
def _machine() -> str:
    """The same for processes that can look for each other: one start of one kernel, one space of process numbers."""
    try:
        known = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        known = socket.gethostname()
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def _ended(pid: int, began: int) -> bool:
    """Whether a process of this machine is gone; its number may have been given to another."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # it is another user's
    return _began(pid) not in (None, began)


def _began(pid: int) -> int | None:
    """When a process began, in ticks of the kernel, and -1 once it has ended; None where nobody tells."""
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return -1 if state in "ZX" else int(others[18])
    except (OSError, ValueError, IndexError):
        return None
