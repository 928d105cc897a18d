"""JSON files whose values are checked against type hints once, so that nothing behind it need ask what they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json

from postdiff.lab.config.layers import adapter

__all__ = ["NotAsHinted", "built", "parsed", "read"]

LARGEST = 1 << 24  # bytes; no record comes near
BEYOND = 1e300
# By pydantic's names of errors.
KINDS = {"string_type": "text", "bool_type": "true or false", "int_type": "a whole number", "float_type": "a number"}


class NotAsHinted(ValueError):
    """Some value is not what its hint says; the message tells where."""


def read(file: Path, largest: int = LARGEST) -> Any:
    """The JSON of a file.

    Raises:
        NotAsHinted: it is none, or none that is written here.
        OSError: it cannot be read.
    """
    if file.stat().st_size > largest:
        raise NotAsHinted("is too large")
    try:
        return parsed(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise NotAsHinted("is not UTF-8") from None


def parsed(text: str) -> Any:
    """The values of a JSON text: nothing too deep to walk, no NaN, no number beyond float64, no half of a character.

    Raises:
        NotAsHinted: it is not JSON, or holds such things.
    """
    try:
        from_json(text, allow_inf_nan=False)  # stricter than Python's, but without bounds of numbers
    except ValueError:
        raise NotAsHinted("is not JSON") from None
    try:
        return json.loads(text, parse_int=_bounded, parse_float=_bounded)
    except ValueError:
        raise NotAsHinted("holds a number without bounds") from None


def _bounded(digits: str) -> float:
    number = float(digits)
    if not abs(number) < BEYOND:
        raise ValueError(digits)
    return int(digits) if digits.lstrip("-").isdigit() else number


def built(hint: Any, value: Any, place: str = "") -> Any:
    """A value of the type `hint`, whose dataclasses are made of mappings with exactly their fields.

    Args:
        hint: a dataclass, a TypedDict (of typing_extensions; other keys are let through), or a type of plain values.
        value: plain values, as JSON has them.
        place: where it stands, for messages.

    Raises:
        NotAsHinted: it does not fit.
    """
    try:
        other: Literal["forbid", "allow"] = "forbid" if dataclasses.is_dataclass(hint) else "allow"
        return adapter(hint).validate_json(json.dumps(value), strict=True, extra=other)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
    name = ".".join(filter(None, (place, *map(str, first["loc"]))))[:80] or "something"
    if first["type"] == "missing":
        raise NotAsHinted(f"lacks {name}")
    if first["type"] == "unexpected_keyword_argument":
        raise NotAsHinted(f"has an unknown {name}")
    raise NotAsHinted(f"has {name} that is not {KINDS.get(first['type'], 'what stands there')}")
