"""Checking a method's options against their annotations, so that a typo in a YAML file is told at once."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import field, fields
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError, unknown

__all__ = ["check_types", "later", "listed", "read_calibration", "require", "require_moment", "require_stages"]


def later(default: Any) -> Any:
    """A dataclass field for an option younger than the method's first records.

    At its default it is left out of descriptions, so that identities of older records stay true.
    """
    return field(default=default, metadata={"later": True})


def check_types(method: Any) -> None:
    """Compare every field of a dataclass with its annotation.

    Raises:
        UsageError: a value does not fit; the method, the option, the value and what was expected are named.
    """
    hints = typing.get_type_hints(type(method))
    for option in fields(method):
        value, hint = getattr(method, option.name), hints[option.name]
        if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
            raise unknown(f"{option.name} of {type(method).__name__}", value, map(str, typing.get_args(hint)))
        if not _fits(value, hint):
            raise UsageError(f"{type(method).__name__}: {option.name}={value!r} must be {_spell(hint)}")


def require(method: Any, condition: bool, option: str, rule: str) -> None:
    """Raise a `UsageError` naming the option, its value and the rule, unless `condition` holds."""
    if not condition:
        raise UsageError(f"{type(method).__name__}: {option}={getattr(method, option)!r} must be {rule}")


def require_moment(method: Any, option: str) -> None:
    """Require an option to be a moment of a run, or a list of such: a step (int) or a fraction of its steps (float)."""
    value = getattr(method, option)
    fits = all(0 <= moment <= 1 if isinstance(moment, float) else moment >= 0 for moment in listed(value))
    require(method, fits, option, "a step (a whole number from 0 on) or a fraction of the run (0.0 to 1.0)")


def require_stages(method: Any, sizes: str, switches: str) -> None:
    """Require one or several fractions in (0, 1), rising, and for each of them a moment of the run, rising too."""
    fractions, moments = listed(getattr(method, sizes)), listed(getattr(method, switches))
    require(method, bool(fractions) and all(0 < one < 1 for one in fractions), sizes, "between 0 and 1, both excluded")
    require(method, fractions == sorted(set(fractions)), sizes, "rising, the smallest first")
    require_moment(method, switches)
    require(method, len(moments) == len(fractions), switches, f"as many as {sizes} has, {len(fractions)}")
    if len({type(moment) for moment in moments}) == 1:  # steps and fractions are compared once steps are known
        require(method, moments == sorted(set(moments)), switches, "rising")


def listed(value: Any) -> list[Any]:
    """The value of an option that may be a list, as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def read_calibration(file: str, key: str, method: str) -> Any:
    """What a calibration file holds under `key`: JSON, as `experiments/calibrate.py` writes it.

    Raises:
        UsageError: no such file, or one that holds something else.
    """
    try:
        return json.loads(Path(file).expanduser().read_text())[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{method}: {key}={file} is no calibration ({type(error).__name__}: {error}); make one with "
            "experiments/calibrate.py"
        ) from None


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _spell(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
