"""A line of a data set, one picture to make, and what every line must hold to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from postdiff.engine.errors import UsageError

__all__ = ["LONGEST", "Line", "checked_image", "checked_label", "checked_prompt", "refuse_twins"]

# Text encoders cut prompts at 77 to 512 tokens. Longer text is mostly a column that is no prompt, or a broken quote.
LONGEST = 2000


@dataclass(frozen=True)
class Line:
    """One line of a data set.

    Attributes:
        id: its name in the set, different from all others.
        prompt: the text, or a class's name.
        image: file name of the picture that belongs to it, below some folder; None without one.
        label: number of the class; None without one.
    """

    id: str
    prompt: str
    image: str | None = None
    label: int | None = None


def checked_prompt(value: Any, where: str) -> str:
    """The prompt itself.

    Args:
        value: what the file holds.
        where: file and place in it, for messages.

    Raises:
        UsageError: no text, an empty one, one longer than `LONGEST`, or one with characters that no text has.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where}: the prompt must be text, not {str(value)[:40]!r}; correct it or use another column")
    if not value.strip():
        raise UsageError(f"{where}: the prompt is empty; write one or remove the line")
    if len(value) > LONGEST:
        raise UsageError(
            f"{where}: the prompt has {len(value)} characters, more than {LONGEST}, and text encoders cut prompts at "
            "77 to 512 tokens; shorten it, or use another column"
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, which JSON can write
        sound = False
    else:
        sound = "\0" not in value
    if not sound:
        raise UsageError(f"{where}: the prompt holds characters that are no text; save the file as UTF-8")
    return value


def checked_image(value: Any, where: str) -> str:
    """A file name below a folder, sub-folders allowed.

    Raises:
        UsageError: no name, or one that leads out of the folder.
    """
    name = value if isinstance(value, str) else ""
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name or "\0" in name
    if not name.strip() or outside or {"..", "."} & set(name.split("/")):
        raise UsageError(f"{where}: image {value!r} is no file name below a folder; write for instance 'a/b.png'")
    return name


def checked_label(value: Any, classes: int, where: str) -> int:
    """A class's number; digits count as one, since a CSV file has nothing else.

    Raises:
        UsageError: none of 0 to `classes` - 1.
    """
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < classes:
        raise UsageError(f"{where}: class {value!r} is none of 0 to {classes - 1}; correct it, or classes={classes}")
    return number


def refuse_twins(lines: Sequence[Line], where: str) -> None:
    """Raises:
    UsageError: two lines have the same id.
    """
    seen: set[str] = set()
    for line in lines:
        if line.id in seen:
            raise UsageError(f"{where}: two lines have the id '{line.id}'; give each line its own")
        seen.add(line.id)
