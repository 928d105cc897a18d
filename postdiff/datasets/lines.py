"""A line of a data set, one picture to make, and what every line must hold to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from postdiff.datasets.content import is_whole, shown
from postdiff.engine.errors import UsageError

__all__ = [
    "LONGEST",
    "Line",
    "checked_id",
    "checked_image",
    "checked_label",
    "checked_prompt",
    "checked_seed",
    "refuse_twins",
]

# Text encoders cut prompts at 77 to 512 tokens. Longer text is mostly a column that is no prompt, or a broken quote.
LONGEST = 2000
LONGEST_NAME = 255  # bytes of a file's name, on most file systems


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a data set.

    Attributes:
        id: its name in the set, different from all others.
        prompt: the text, or a class's name.
        image: file name of the picture that belongs to it, below some folder; None without one.
        label: number of the class; None without one.
        seed: its own seed, from 0 and below 2**63; None without one.
    """

    id: str
    prompt: str
    image: str | None = None
    label: int | None = None
    seed: int | None = None


def checked_prompt(value: Any, where: str, empty: bool = True) -> str:
    """The prompt itself.

    Args:
        value: what the file holds.
        where: file and place in it, for messages.
        empty: whether "" is one: the prompt of an unconditional picture.

    Raises:
        UsageError: no text, nothing but white space, text longer than `LONGEST`, or characters that no text has.
    """
    if not isinstance(value, str):
        told = shown(value)
        raise UsageError(f"{where}: the prompt must be text, not '{told}'; correct it or use another column")
    if not value and not empty:
        raise UsageError(f"{where}: the prompt is empty; write one or remove the line")
    if value and not value.strip():
        remedy = 'write one, or "" for the empty prompt' if empty else "write one or remove the line"
        raise UsageError(f"{where}: the prompt is nothing but white space; {remedy}")
    if len(value) > LONGEST:
        raise UsageError(
            f"{where}: the prompt has {len(value)} characters, more than {LONGEST}, and text encoders cut prompts at "
            "77 to 512 tokens; shorten it, or use another column"
        )
    if not _sound(value):
        raise UsageError(f"{where}: the prompt holds characters that are no text; save the file as UTF-8")
    return value


def _sound(text: str) -> bool:
    """Whether every character is one: JSON can write half of one, and NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def checked_id(value: Any, where: str) -> str:
    """A line's name as text; numbers count too.

    Raises:
        UsageError: neither text nor number, too long, or with characters that no text has.
    """
    number = _number(value) is not None or (isinstance(value, float) and math.isfinite(value))
    name = value if isinstance(value, str) else str(value) if number else ""
    if not (isinstance(value, str) or number) or len(name) > LONGEST_NAME or not _sound(name):
        raise UsageError(
            f"{where}: id {shown(value)} is no name; use numbers, or text of at most {LONGEST_NAME} letters"
        )
    return name


def checked_image(value: Any, where: str) -> str:
    """A file name below a folder, sub-folders allowed.

    Raises:
        UsageError: no name, or one that leads out of the folder.
    """
    name = value if isinstance(value, str) and _sound(value) else ""
    parts = name.split("/")
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name
    long = any(len(part.encode()) > LONGEST_NAME for part in parts) or len(name) > 4 * LONGEST_NAME
    if not name.strip() or outside or long or {"..", "."} & set(parts):
        raise UsageError(f"{where}: image {shown(value)} is no file name below a folder; write for instance 'a/b.png'")
    return name


def checked_label(value: Any, classes: int, where: str) -> int:
    """A class's number; digits count as one, since a CSV file has nothing else.

    Raises:
        UsageError: none of 0 to `classes` - 1.
    """
    number = _number(value)
    if not is_whole(number, classes):
        raise UsageError(
            f"{where}: class {shown(value)} is none of 0 to {classes - 1}; correct it, or classes={classes}"
        )
    return number


def checked_seed(value: Any, where: str) -> int:
    """A line's own seed; digits count as a number, since a CSV file has nothing else.

    Raises:
        UsageError: missing, no whole number, or out of range.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UsageError(f"{where} has no seed; give every line one, or leave the column of seeds out")
    number = _number(value)
    if not is_whole(number):
        raise UsageError(f"{where}: seed {shown(value)} is no whole number from 0 and below 2**63; correct it")
    return number


def _number(value: Any) -> int | None:
    if isinstance(value, str) and len(value) <= 30 and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def refuse_twins(lines: Sequence[Line], where: str) -> None:
    """Raises:
    UsageError: two lines have the same id.
    """
    seen: set[str] = set()
    for line in lines:
        if line.id in seen:
            raise UsageError(f"{where}: two lines have the id {shown(line.id)}; give each line its own")
        seen.add(line.id)
