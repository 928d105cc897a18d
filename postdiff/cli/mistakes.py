"""What a mistake is told as: one line for those that a user can mend. Loads nothing until there is one."""

from __future__ import annotations

__all__ = ["foreseen", "usage_error"]

EXTRA = (
    *("lightning", "omegaconf", "torchmetrics", "torchvision", "cleanfid", "numpy", "tqdm", "PIL", "yaml"),
    *("matplotlib", "pyarrow", "requests", "filelock"),
)


def usage_error(message: str) -> ValueError:
    """The error of a word that the command line does not take."""
    from postdiff.engine.errors import UsageError

    return UsageError(message)


def foreseen(error: Exception) -> str | None:
    """One line for an error that a user can mend, or None for one that only we can."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            return None
        return f'this command needs {missing}, which is not installed; pip install "postdiff[lab]"'
    from postdiff.engine.errors import UsageError

    if isinstance(error, UsageError):
        return " ".join(str(error).split())
    if _out_of_memory(error):
        reason = " ".join(str(error).split()).rpartition("Allocator: ")[2].partition(". ")[0][:160]
        return (
            f"memory is full ({reason or type(error).__name__}); use a smaller batch_size or picture, or "
            "dtype=float16; what is made is kept"
        )
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}; free or change the folder, POSTDIFF_OUTPUTS says where results go"
    return None


def _out_of_memory(error: Exception) -> bool:
    """Whether a device or the machine has no memory left; torch, which need not be loaded, has two errors for it."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (type(error) is RuntimeError and "can't allocate memory" in str(error))
