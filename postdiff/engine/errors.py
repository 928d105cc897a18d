"""The one exception for mistakes a user can make and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UsageError", "unknown"]


class UsageError(ValueError):
    """A mistake in what was asked for, told in one line: the thing, the cause, the remedy.

    The command line prints it without a traceback and exits with 2.
    """


def unknown(kind: str, name: object, choices: Iterable[str]) -> UsageError:
    """Build the error for a name that is not among `choices`, suggesting the nearest one.

    Args:
        kind: what was looked up, as a user would call it ("method", "row", "option of deepcache").
        name: what was given.
        choices: every name that would have been accepted.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known) or 'none'}"
    return UsageError(f"unknown {kind} '{name}'; {hint}")
