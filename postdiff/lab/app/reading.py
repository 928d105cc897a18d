"""What stands in the page's fields, read as one comparison, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postdiff.engine.errors import UsageError, shown
from postdiff.lab.app import fields
from postdiff.lab.app.asked import Asked
from postdiff.lab.app.fields import Form

__all__ = ["asked", "number", "panels", "whole"]

LARGEST_SEED = 2**53  # beyond it a browser's numbers have gaps


def asked(values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]], forms: Sequence[Form]) -> Asked:
    """What somebody asks for.

    Args:
        values: of the fields above the panels; None where nothing stands in one.
        options: {method: {option: what stands in its field}}.
        forms: of all methods.

    Raises:
        UsageError: a field that cannot be read, or an option that its method refuses.
    """
    by_name = {form.name: form for form in forms}
    stack = tuple(fields.spec(by_name[name], options[name]) for name in values["methods"])
    return Asked(
        model=str(values["model"] or "").strip(),
        prompt=str(values["prompt"] or ""),
        seed=_seed(values["seed"]),
        steps=_needed("steps", values["steps"]),
        methods=stack,
        accelerated_steps=whole("steps with methods", values["own_steps"]),
        scheduler=values["solver"],
        guidance_scale=number("guidance", values["guidance"]),
        height=whole("height", values["height"]),
        width=whole("width", values["width"]),
    )


def panels(stack: Sequence[tuple[str, Mapping[str, Any]]], forms: Sequence[Form]) -> dict[str, dict[str, Any]]:
    """What the panels show for a stack: {method: {option: value}}, of the methods in it alone.

    Raises:
        UsageError: a method that the page has no panel for.
    """
    by_name = {form.name: form for form in forms}
    for name, _ in stack:
        if name not in by_name:
            raise UsageError(f"method '{shown(name)}' is not on this page; start it again")
    return {name: fields.from_spec(by_name[name], options) for name, options in stack}


def number(name: str, value: Any) -> float | None:
    """A number, or None where nothing is given.

    Args:
        name: of the field, for the message.
        value: a number, or text that is one.

    Raises:
        UsageError: anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name}={shown(value)} is no number; give one, or leave the field empty") from None


def whole(name: str, value: Any) -> int | None:
    """A whole number, or None where nothing is given.

    Args:
        name: as of `number`.
        value: as of `number`.

    Raises:
        UsageError: anything else.
    """
    found = number(name, value)
    if found is None:
        return None
    if not found.is_integer():
        raise UsageError(f"{name}={shown(value)} must be a whole number")
    return int(value) if isinstance(value, int) else int(found)


def _seed(value: Any) -> int:
    found = _needed("seed", value)
    if not 0 <= found < LARGEST_SEED:
        raise UsageError(f"seed={shown(found)} must be a whole number from 0 and below 2**53, which a browser knows")
    return found


def _needed(name: str, value: Any) -> int:
    found = whole(name, value)
    if found is None:
        raise UsageError(f"{name} is empty; give a whole number")
    return found
