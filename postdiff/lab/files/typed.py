"""JSON files whose values are checked against type hints once, so that nothing behind it need ask what they are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

__all__ = ["NotAsHinted", "built", "parsed", "read"]

LARGEST = 1 << 24  # bytes; no record comes near
DEEPEST = 64
BEYOND = 1e300
SIMPLE = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


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
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise NotAsHinted("is not UTF-8") from None
    found = parsed(text)
    if not (text.isascii() and "\\u" not in text) and not _printable(found):
        raise NotAsHinted("holds half a character")
    return found


def parsed(text: str) -> Any:
    """The values of a JSON text: nothing too deep to walk, no NaN, no number beyond float64.

    Raises:
        NotAsHinted: it is not JSON, or holds such things.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NotAsHinted("is not JSON") from None
    _refuse_strange(found)
    return found


def built(hint: Any, value: Any, place: str = "") -> Any:
    """A value of the type `hint`, whose dataclasses are made of mappings with exactly their fields.

    Hints may be str, bool, int, float (also of whole numbers), None, Any, list, dict with keys of text, unions,
    TypedDict (other keys are let through) and dataclasses.

    Args:
        hint: the type.
        value: plain values, as JSON has them.
        place: where it stands, for messages.

    Raises:
        NotAsHinted: it does not fit.
    """
    if hint is Any:
        return value
    if hint in SIMPLE:
        if type(value) is hint or (hint is float and type(value) is int):
            return value
        raise NotAsHinted(f"has {place or 'something'} that is not {SIMPLE[hint]}")
    origin, inner = _parts(hint)
    if origin in (Union, types.UnionType):
        for each in inner:
            with contextlib.suppress(NotAsHinted):
                return built(each, value, place)
    elif origin is list and isinstance(value, list):
        return [built(inner[0], each, f"{place}[{number}]") for number, each in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        return {key: built(inner[1], each, _at(place, key)) for key, each in value.items()}
    elif isinstance(value, dict) and origin is None:
        hints, needed, closed = _fields(hint)
        _refuse(place, "lacks", needed - value.keys())
        _refuse(place, "has an unknown", value.keys() - hints.keys() if closed else ())
        made = {key: built(hints.get(key, Any), each, _at(place, key)) for key, each in value.items()}
        return hint(**made)
    raise NotAsHinted(f"has {place or 'something'} that is not {'a list' if origin is list else 'a mapping'}")


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(hint), get_args(hint)


@functools.cache
def _fields(hint: Any) -> tuple[dict[str, Any], frozenset[str], bool]:
    """Of a dataclass or TypedDict: hints by name, names that must be there, and whether there may be no others."""
    if is_typeddict(hint):
        return get_type_hints(hint), hint.__required_keys__, False
    bare = (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(hint)
    needed = frozenset(field.name for field in fields if (field.default, field.default_factory) == bare)
    return get_type_hints(hint), needed, True


def _refuse_strange(found: Any) -> None:
    level, depth = [found], 0
    while level:
        if depth > DEEPEST:
            raise NotAsHinted("is nested too deep")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, (int, float)) and not abs(value) < BEYOND:
                raise NotAsHinted("holds a number without bounds")
        level, depth = inner, depth + 1


def _printable(found: Any) -> bool:
    """Whether all texts can be written: JSON may hold half of a pair of UTF-16, which no terminal and no file takes."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(place: str, what: str, keys: Collection[str]) -> None:
    if keys:
        raise NotAsHinted(f"{what} {_at(place, min(keys))[:80]}")


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
