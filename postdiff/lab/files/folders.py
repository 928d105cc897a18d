"""Where things are written: `outputs/`, or the folder in the environment variable POSTDIFF_OUTPUTS."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from postdiff.engine.errors import UsageError

__all__ = ["alive", "committed_records", "host", "outputs", "sweep", "whole_file", "whole_files", "writable_outputs"]

# A temporary name says who writes it, so that what a killed process left is told from what is being written.
LEFTOVER = re.compile(r"^\..+-(?P<pid>\d+)@(?P<host>[^@]+)@\w+(\.\w+)?$")
# As version 0.1 named them.
UNSIGNED = re.compile(r"^\..+-[a-z0-9_]{8}\.\w+$")
OLD = 24 * 3600.0  # seconds after which a leftover of nobody known, or of another machine, is taken for one


def outputs() -> Path:
    """Root of everything that a run writes."""
    return Path(os.environ.get("POSTDIFF_OUTPUTS") or "outputs").expanduser()


def committed_records() -> Path:
    """Records that the repository carries; the folder is absent outside a checkout."""
    return Path(__file__).parents[3] / "experiments" / "records"


def writable_outputs() -> Path:
    """The root, made if need be; asked for before any model is loaded.

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
    return root


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A temporary name beside `file`; takes its place when the block ends well, and vanishes when it does not."""
    with whole_files([file]) as [temporary]:
        yield temporary


@contextmanager
def whole_files(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary names beside `files`; they take their places one right after the other when the block ends well.

    Raises:
        OSError: with the name of the file that cannot be written, for instance since the disk is full.
    """
    with ExitStack() as undo:
        temporaries = []
        try:
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                prefix = f".{file.stem}-{os.getpid()}@{host()}@"
                handle, name = tempfile.mkstemp(dir=file.parent, prefix=prefix, suffix=file.suffix)
                os.close(handle)
                temporaries.append(Path(name))
                undo.callback(Path(name).unlink, missing_ok=True)
            yield temporaries
            # mkstemp makes files for the owner alone; results are for everybody who may read the folder.
            for temporary in temporaries:
                temporary.chmod(0o666 & ~_umask())
            for temporary, file in zip(temporaries, files, strict=True):
                temporary.replace(file)
        except OSError as error:
            if error.errno is not None and error.filename is None and files:
                error.filename = str(files[0])  # a write that fails does not say what it wrote
            raise


def sweep(folder: Path) -> int:
    """Remove what killed processes left half-written in a folder and below; returns how many files that were."""
    removed = 0
    for file in folder.rglob(".*"):
        found = LEFTOVER.match(file.name)
        if (found is None and not UNSIGNED.match(file.name)) or not file.is_file():
            continue
        try:
            if found is not None and found["host"] == host():
                left = not alive(int(found["pid"]))
            else:
                left = time.time() - file.stat().st_mtime > OLD
            if left:
                file.unlink()
                removed += 1
        except FileNotFoundError:
            continue  # another process has swept it
    return removed


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def host() -> str:
    """Name of this machine, as far as it fits into a file name."""
    return re.sub(r"[^\w.-]", "", socket.gethostname())[:40] or "host"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
