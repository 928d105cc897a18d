"""Values as people write them: whether one fits an annotation or a range, the path that a text names, text in bytes."""

from __future__ import annotations

import math
import types
import typing
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError, shown

__all__ = [
    "LARGEST",
    "between",
    "decoded",
    "expanded",
    "fits",
    "sound",
    "spelt",
]

LARGEST = 2**31 - 1  # of a whole number that has no bound of its own


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; whole numbers are floats too, truth values are no numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in arguments)  # true is no 1
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if hint is None or hint is types.NoneType:
        return value is None
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def spelt(hint: Any) -> str:
    """An annotation for people."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def sound(value: Any) -> bool:
    """Whether every number in it, however deep, is finite and every whole one at most `LARGEST`."""
    if isinstance(value, dict):
        return all(map(sound, value.values()))
    if isinstance(value, list | tuple):
        return all(map(sound, value))
    return abs(value) <= LARGEST if isinstance(value, int) else not isinstance(value, float) or math.isfinite(value)


def decoded(content: bytes, name: object) -> str:
    """Bytes in UTF-8 as text.

    Args:
        content: of a file.
        name: what the message calls it.

    Raises:
        UsageError: they are not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"byte 0x{content[error.start]:02x} in line {line}"
        raise UsageError(f"{name} is not UTF-8 ({byte}); save it as UTF-8") from None


def expanded(name: str) -> Path:
    """The path that a text names, with ~ and ~somebody filled in.

    Raises:
        UsageError: nobody of that name has a home here, or no path can be called so.
    """
    if "\0" in name:
        raise UsageError(f"'{shown(name)}' is no path, since it holds a NUL character; leave that out")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UsageError(
            f"'{shown(name)}' names a home folder that is not known here; write the path in full"
        ) from None


def between(least: int | None, most: int, instead: str, name: str, value: int) -> None:
    """Refuse a whole number below `least` or above `most`; `instead`: what is proposed for too small.

    Raises:
        UsageError: with the bound.
    """
    if least is not None and value < least:
        if least == 0:
            raise UsageError(f"{name}={value} is negative; use {instead or '0 or more'}")
        raise UsageError(f"{name}={value} is too small; use {instead or f'at least {least}'}")
    if abs(value) > most:
        raise UsageError(f"{name}={shown(_digits(value), 30)} is too large; use at most {most}")


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # beyond 4,300 digits Python writes none
        return hex(value)
