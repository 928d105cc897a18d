"""The one exception for mistakes a user can make and mend."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["HIDDEN", "UsageError", "shown", "unknown"]

# Control characters, line and paragraph separators, what turns the direction of writing, and halves of characters.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class UsageError(ValueError):
    """A mistake in what was asked for, told in one line: the thing, the cause, the remedy.

    The command line prints it without a traceback and exits with 2.
    """


def shown(text: object, most: int = 60) -> str:
    """What somebody has written as a message repeats it: hidden characters spelt out, the middle of a long one cut.

    Args:
        text: anything.
        most: characters of the result.
    """
    written = str(text)
    if len(written) > most:
        written = written[:most] + written[-most:]  # enough of both ends, whatever its length
    written = HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), written)
    if len(written) <= most and len(str(text)) <= most:
        return written
    end = most // 3
    return f"{written[: most - end - 5]} ... {written[-end:]}"


def unknown(kind: str, name: object, choices: Iterable[str]) -> UsageError:
    """Build the error for a name that is not among `choices`, suggesting the nearest one.

    Args:
        kind: what was looked up, as a user would call it ("method", "row", "option of deepcache").
        name: what was given.
        choices: every name that would have been accepted.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {shown(', '.join(known) or 'none', 160)}"
    return UsageError(f"unknown {kind} '{shown(name)}'; {hint}")
