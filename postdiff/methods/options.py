"""Checking a method's options against their annotations, so that a typo in a YAML file is told at once."""

from __future__ import annotations

import json
import typing
from dataclasses import field, fields
from typing import Any

from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import LARGEST, expanded, fits, sound, spelt

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
        if typing.get_origin(hint) is typing.Literal and not fits(value, hint):
            raise unknown(f"{option.name} of {type(method).__name__}", value, map(str, typing.get_args(hint)))
        if not fits(value, hint):
            raise UsageError(f"{type(method).__name__}: {option.name}={shown(repr(value))} must be {spelt(hint)}")
        if not isinstance(
            value, float
        ):  # each option has its own range; no list holds NaN, no count is beyond counting
            require(method, sound(value), option.name, f"finite, and whole numbers at most {LARGEST}")


def require(method: Any, condition: bool, option: str, rule: str) -> None:
    """Raise a `UsageError` naming the option, its value and the rule, unless `condition` holds."""
    if not condition:
        raise UsageError(f"{type(method).__name__}: {option}={shown(repr(getattr(method, option)))} must be {rule}")


def require_moment(method: Any, option: str) -> None:
    """Require an option to be a moment of a run, or a list of such: a step (int) or a fraction of its steps (float)."""
    value = getattr(method, option)
    fits = all(0 <= moment <= 1 if isinstance(moment, float) else moment >= 0 for moment in listed(value))
    require(method, fits, option, "a step (a whole number from 0 on) or a fraction of the run (0.0 to 1.0)")


def require_stages(method: Any, sizes: str, switches: str) -> None:
    """Require one or several fractions in (0, 1), rising, and for each of them a moment of the run, rising too.

    "auto" in the place of moments leaves it to a rule to find them.
    """
    fractions, moments = listed(getattr(method, sizes)), listed(getattr(method, switches))
    require(method, bool(fractions) and all(0 < one < 1 for one in fractions), sizes, "between 0 and 1, both excluded")
    require(method, fractions == sorted(set(fractions)), sizes, "rising, the smallest first")
    if moments == ["auto"]:
        return
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
        place = expanded(file)
        if not place.is_file():
            raise FileNotFoundError(f"{place} is no file")
        return json.loads(place.read_text())[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{method}: {key}={shown(file)} is no calibration ({type(error).__name__}: {shown(error, 120)}); make one "
            "with experiments/calibrate.py"
        ) from None
