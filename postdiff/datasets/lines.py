"""A line of a data set, one image to make, and what every line must hold to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from postdiff.datasets.content import is_whole, shown
from postdiff.engine.errors import UsageError

__all__ = ["LONGEST", "Line", "checked_image", "checked_line", "checked_prompt", "refuse_twins"]

# Text encoders cut prompts at 77 to 512 tokens. Longer text is mostly a column that is no prompt, or a broken quote.
LONGEST = 2000
LONGEST_NAME = 255  # bytes of a file's name, on most file systems
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON can write NUL, and half of a character


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a data set.

    Attributes:
        id: its name in the set, different from all others.
        prompt: the text, or a class's name.
        image: file name of the image that belongs to it, below some folder; None without one.
        label: number of the class; None without one.
        seed: its own seed, from 0 and below 2**63; None without one.
    """

    id: str
    prompt: str
    image: str | None = None
    label: int | None = None
    seed: int | None = None


def checked_line(values: Mapping[str, Any], where: str, classes: int | None = None) -> Line:
    """A line, of what a file holds.

    Args:
        values: `id` and `prompt`; `image` and `class`, where they are not None; `seed`, where the lines have seeds.
            Numbers may be written in digits, since a CSV file has nothing else.
        where: file and place in it, for messages.
        classes: how many there are; None: `class` is not read.

    Raises:
        UsageError: an id that is neither text nor number; a seed that is missing; or one of the values is not sound.
    """
    own, image, label, seed = values["id"], values.get("image"), values.get("class"), None
    number = type(own) is int or (isinstance(own, float) and math.isfinite(own))
    name = str(own) if number or isinstance(own, str) else None
    if name is None or len(name) > LONGEST_NAME or NO_TEXT.search(name):
        raise UsageError(f"{where}: id {shown(own)} is no name; use numbers, or text of at most {LONGEST_NAME} letters")
    prompt = checked_prompt(values["prompt"], where)
    if image is not None:
        image = checked_image(image, where)
    if label is not None and classes is not None:
        label = _number(label)
        if not is_whole(label, classes):
            written = shown(values["class"])
            raise UsageError(
                f"{where}: class {written} is none of 0 to {classes - 1}; correct it, or classes={classes}"
            )
    if "seed" in values:
        if values["seed"] is None or (isinstance(values["seed"], str) and not values["seed"].strip()):
            raise UsageError(f"{where} has no seed; give every line one, or leave the column of seeds out")
        seed = _number(values["seed"])
        if not is_whole(seed):
            written = shown(values["seed"])
            raise UsageError(f"{where}: seed {written} is no whole number from 0 and below 2**63; correct it")
    return Line(name, prompt, image, label if classes is not None else None, seed)


def checked_prompt(value: Any, where: str, empty: bool = True) -> str:
    """The prompt itself.

    Args:
        value: what the file holds.
        where: file and place in it, for messages.
        empty: whether "" is one: the prompt of an unconditional image.

    Raises:
        UsageError: no text, nothing but white space, text longer than `LONGEST`, or characters that no text has.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where}: the prompt must be text, not '{shown(value)}'; correct it or use another column")
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
    if NO_TEXT.search(value):
        raise UsageError(f"{where}: the prompt holds characters that are no text; save the file as UTF-8")
    return value


def checked_image(value: Any, where: str) -> str:
    """A file name below a folder, sub-folders allowed.

    Raises:
        UsageError: no name, or one that leads out of the folder.
    """
    name = value if isinstance(value, str) and not NO_TEXT.search(value) else ""
    parts = name.split("/")
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name
    long = any(len(part.encode()) > LONGEST_NAME for part in parts) or len(name) > 4 * LONGEST_NAME
    if not name.strip() or outside or long or {"..", "."} & set(parts):
        raise UsageError(f"{where}: image {shown(value)} is no file name below a folder; write for instance 'a/b.png'")
    return name


def _number(value: Any) -> Any:
    """A whole number that is written in digits; anything else as it is."""
    return int(value) if isinstance(value, str) and len(value) <= 30 and value.strip().isdecimal() else value


def refuse_twins(lines: Sequence[Line], where: str) -> None:
    """Raises:
    UsageError: two lines have the same id.
    """
    seen: set[str] = set()
    for line in lines:
        if line.id in seen:
            raise UsageError(f"{where}: two lines have the id {shown(line.id)}; give each line its own")
        seen.add(line.id)
