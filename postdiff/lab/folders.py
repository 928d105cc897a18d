"""Where things are written: `outputs/`, or the folder in the environment variable POSTDIFF_OUTPUTS."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postdiff.engine.errors import UsageError

__all__ = ["committed_records", "outputs", "whole_file", "writable_outputs"]


def outputs() -> Path:
    """Root of everything that a run writes."""
    return Path(os.environ.get("POSTDIFF_OUTPUTS") or "outputs").expanduser()


def committed_records() -> Path:
    """Records that the repository carries; the folder is absent outside a checkout."""
    return Path(__file__).parents[2] / "experiments" / "records"


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
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-", suffix=file.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files for the owner alone; results are for everybody who may read the folder.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
