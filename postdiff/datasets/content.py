"""What a file holds: bytes within limits, as text, as JSON, each refused in one line where it is something else.

The limits leave room for every published set of prompts (the captions of COCO 2017's training images are 92 MB) and
keep a file that is none from filling the memory.
"""

from __future__ import annotations

import codecs
import json
import math
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from postdiff.engine import values
from postdiff.engine.errors import UsageError

__all__ = [
    *("MOST_BYTES", "MOST_LINES", "MOST_STORED", "decoded", "is_whole", "listed", "parsed_json", "read_text"),
    *("refuse_larger", "shown", "unreadable"),
]

MB = 1_000_000
MOST_BYTES = 100 * MB  # of text, which has to stand in memory whole
MOST_STORED = 4000 * MB  # of an archive or a Parquet file, of which a part is read
MOST_LINES = 1_000_000
# An empty list or object takes two characters of a file and 64 bytes of memory, a text of two letters four and 51.
MOST_CONTAINERS = 3_000_000
MOST_TEXTS = 14_000_000

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def refuse_larger(file: Path, most: int, what: str) -> None:
    """Look at a file's size before it is read.

    Args:
        file: that is there.
        most: bytes that it may have.
        what: it is, for messages.

    Raises:
        UsageError: it is no regular file, larger than that, or may not be looked at.
    """
    try:
        state = file.stat()
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None
    if not stat.S_ISREG(state.st_mode):
        raise UsageError(f"{file} is no regular file; save what it holds in one")
    if state.st_size > most:
        raise UsageError(
            f"{file} has {math.ceil(state.st_size / MB):,} MB, and {what} may have {most // MB:,} MB; use a part of it"
        )


def read_text(file: Path) -> str:
    """What a text file holds.

    Raises:
        UsageError: it is no regular file, larger than `MOST_BYTES`, may not be read, or is not UTF-8.
    """
    refuse_larger(file, MOST_BYTES, "a file of prompts")
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(file, error) from None
    if len(content) > MOST_BYTES:  # files of the kernel have no size
        raise UsageError(f"{file} has more than {MOST_BYTES // MB} MB; use a part of it")
    return decoded(content, str(file))


def unreadable(file: Path, error: OSError | ValueError) -> UsageError:
    """What to say of a file that the system does not let us read."""
    reason = getattr(error, "strerror", None) or error
    return UsageError(f"{file} cannot be read ({reason}); allow it or name another file")


def decoded(content: bytes, name: str) -> str:
    """Bytes as text, without byte order marks at the beginning.

    Raises:
        UsageError: they are not UTF-8, or hold NUL bytes.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise UsageError(f"{name} is not UTF-8 but {encoding}; save it as UTF-8")
    if (first := content.find(b"\0")) >= 0:
        raise UsageError(f"{name} {_about_nul(content, first)}")
    return values.decoded(content, name).lstrip("\ufeff")


def _about_nul(content: bytes, first: int) -> str:
    if not content[first:].strip(b"\0"):
        return f"ends in {len(content) - first} NUL bytes, so it was not written whole; copy it again"
    start = content[: 1 << 12]
    if max(start[::2].count(0), start[1::2].count(0)) > len(start) // 4:
        return "is not UTF-8 but looks like UTF-16 (every other byte is 0); save it as UTF-8"
    line = content[:first].count(b"\n") + 1
    return f"is no text (a NUL byte in line {line}); save it as UTF-8"


def parsed_json(text: str, name: str, remedy: str, line: int | None = None) -> Any:
    """The value that JSON text stands for.

    Args:
        text: JSON.
        name: of the file, for messages.
        remedy: what to do about broken text, for messages.
        line: its number, of a file of which this is one line.

    Raises:
        UsageError: it is not JSON, nested too deep, or holds more than memory should.
    """
    place = "" if line is None else f", line {line}"
    if text.count("{") + text.count("[") > MOST_CONTAINERS:
        raise UsageError(f"{name}{place} holds more than {MOST_CONTAINERS:,} lists and objects; use a part of it")
    if text.count('"') > 2 * MOST_TEXTS:
        raise UsageError(f"{name}{place} holds more than {MOST_TEXTS:,} texts; use a part of it")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise UsageError(f"{name} is not JSON at {where} ({error.msg}); {remedy}") from None
    except RecursionError:
        raise UsageError(f"{name}{place} is nested too deep to hold prompts; {remedy}") from None
    except ValueError:  # Python reads no longer ones
        raise UsageError(f"{name}{place} holds a number of more than 4,300 digits; {remedy}") from None


def is_whole(value: Any, below: int = 2**63) -> TypeGuard[int]:
    """Whether it is a whole number from 0 and below a bound, and neither a text of digits nor a truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


_SHORT = reprlib.Repr()
_SHORT.maxlevel = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 2
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """A value as messages repeat it: text in quotes, nothing that a terminal acts on, cut to some 60 characters."""
    return _SHORT.repr(value)


def listed(names: Iterable[str], most: int = 80) -> str:
    """Names in quotes, as many as fit into `most` characters, and how many are left out; "none" if there are none."""
    every = list(names)
    words: list[str] = []
    for name in every:
        if sum(map(len, words)) > most:
            return f"{', '.join(words)} and {len(every) - len(words):,} more"
        words.append(shown(name))
    return ", ".join(words) or "none"
