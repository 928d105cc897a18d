"""Whose fault an error is that nobody has foreseen: the model's, if its bare pipeline ends in the same one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError

__all__ = ["full", "of_the_model"]


def of_the_model(error: Exception, pipe: Any, arguments: Mapping[str, Any], what: str) -> UsageError | None:
    """The one line for an error that a pipeline ends in without us as well; None if that is not the case.

    Args:
        error: what a call under methods ended in.
        pipe: the pipeline, which is called once more, bare.
        arguments: of the call.
        what: the model, for the message.
    """
    if full(error) or isinstance(error, Warning) or catalog.place_of(error) is not None:
        return None
    try:
        pipe(**arguments)
    except Exception as bare:
        if type(bare) is type(error):
            reason = f"{type(bare).__name__}: {bare}".rstrip(": ")
            return UsageError(
                f"{type(pipe).__name__} cannot draw with {what} ({reason}), also without methods; see to the "
                "model's files, --debug shows the traceback"
            )
    return None


def full(error: Exception) -> bool:
    """Whether a machine or device had no memory left."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate" in str(error)
