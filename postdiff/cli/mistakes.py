"""What a mistake is told as: one line for those that a user can mend."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, shown

__all__ = ["foreseen", "line", "stopped"]

EXTRA = (
    *("lightning", "torchmetrics", "torchvision", "cleanfid", "numpy", "tqdm", "PIL", "yaml"),
    *("matplotlib", "pyarrow", "requests", "filelock"),
)
LONGEST = 300  # characters of a line, whatever it repeats
SHORTEST = 50  # of a word that is cut to make room
OURS = Path(__file__).parents[1]
# What the place where results go has no part in.
MISNAMED = (errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.EINVAL)


def line(beginning: str, message: str, longest: int = LONGEST) -> str:
    """A message as it is printed: one line of no more characters, none of which moves a cursor.

    Where it is too long, all long words but the first lose their middle, which are mostly the same path once more; then
    the message does. So the thing, which comes first, and the remedy, which comes last, stay.
    """
    words = message.split()
    for place in [place for place, word in enumerate(words) if len(word) > SHORTEST][1:]:
        if len(beginning) + len(" ".join(words)) > longest:
            words[place] = f"{words[place][:12]}...{words[place][15 - SHORTEST :]}"
    return beginning + shown(" ".join(words), longest - len(beginning))


def foreseen(error: Exception) -> str | None:
    """What to tell of an error that a user can mend, or None for one that only we can."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if missing in EXTRA:
            return f'this command needs {missing}, which is not installed; pip install "postdiff[lab]"'
    if isinstance(error, UsageError):
        return str(error)
    if _out_of_memory(error):
        reason = " ".join(str(error).split()).rpartition("Allocator: ")[2].partition(". ")[0][:160]
        return (
            f"memory is full ({reason or type(error).__name__}); use a smaller batch_size or image, or "
            "dtype=float16; what is made is kept"
        )
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        if error.errno in MISNAMED:
            return f"{error.strerror}{place}; use another name or place"
        return f"{error.strerror}{place}; free or change the folder, POSTDIFF_OUTPUTS says where results go"
    if type(error) is RuntimeError and "home directory" in str(error):  # as pathlib says it
        return "a path begins with ~ and names a home folder that is not known here; write the path in full"
    if isinstance(error, Warning):
        return f"a warning counts as an error here ({error}); take that out of PYTHONWARNINGS, or of -W"
    return _of_a_library(error) or _of_a_private_file(error)


def stopped(end: SystemExit) -> str | None:
    """What to tell if code of the user's own has ended the process; None if we or argparse did."""
    place = plugins.place_of(end)
    return place and f"code of your own ends the process, {place}; it must not call sys.exit, take it out"


def _out_of_memory(error: Exception) -> bool:
    """Whether a device or the machine has no memory left; torch, which need not be loaded, has two errors for it."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (type(error) is RuntimeError and "can't allocate memory" in str(error))


def _of_a_library(error: Exception) -> str | None:
    """An error while a library of others is imported: its own variables of the environment, or its installation."""
    frames = traceback.extract_tb(error.__traceback__)
    own = max((place for place, frame in enumerate(frames) if OURS in Path(frame.filename).parents), default=-1)
    after = [frame for frame in frames[own + 1 :] if not frame.filename.startswith("<")]
    if not after or after[0].name != "<module>":
        return None
    installed = [frame.filename.rpartition(f"site-packages{os.sep}") for frame in after]
    library = next((file.partition(os.sep)[0] for _, found, file in installed[::-1] if found), after[0].filename)
    return (
        f"{library} cannot be imported ({type(error).__name__}: {error}); see to the environment variables that it "
        "reads, or install it again; --debug shows where"
    )


def _of_a_private_file(error: Exception) -> str | None:
    """An error that comes out of code of the user's own, or comes up under it."""
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    if (place := plugins.place_of(error)) is not None:
        return f"code of your own fails, {place}: {reason}; mend it, --debug shows the traceback"
    loaded = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    files = [file for file in loaded if file and plugins.is_private(file)]
    if not files:
        return None
    return f"this fails with code of your own, {files[-1]}: {reason}; mend it, --debug shows the traceback"
