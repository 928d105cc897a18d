"""Whose fault an error is that nobody has foreseen: the model's, if its bare pipeline ends in the same one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError

__all__ = ["explained"]


def explained(error: Exception, pipe: Any, arguments: Mapping[str, Any] | None, what: str) -> UsageError | None:
    """The one line for what a pipeline refuses, or ends in without us as well; None if it is neither.

    Args:
        error: what a call under methods ended in.
        pipe: the pipeline; where it does not refuse, it is called once more, bare.
        arguments: of the call; None if it was not called.
        what: the model, for the message.
    """
    if plugins.place_of(error) is not None:
        return None
    if isinstance(error, ValueError):
        return UsageError(f"{type(pipe).__name__} refuses: {error}")
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate" in str(error)
    if arguments is None or full or isinstance(error, Warning):
        return None
    try:
        pipe(**arguments)
    except Exception as bare:
        if type(bare) is type(error):
            reason = f"{type(bare).__name__}: {bare}".rstrip(": ")
            return UsageError(
                f"{type(pipe).__name__} cannot generate with {what} ({reason}), also without methods; see to the "
                "model's files, --debug shows the traceback"
            )
    return None
