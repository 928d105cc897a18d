"""Keys of earlier versions, which still work until the next release; each is told of once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

from postdiff.engine.errors import UsageError

__all__ = ["current"]

# {where: {old key: new key}}; "" is the row itself.
KEYS = {"": {"mirror": "logger"}, "logger": {"pictures": "images"}}


def current(values: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Values of a row with today's keys, for those of earlier versions.

    Raises:
        UsageError: a key in both spellings.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        new = KEYS[inside].get(key, key)
        if new != key:
            if new in values:
                raise UsageError(f"'{key}' is the old name of '{new}', which is given too; leave '{key}' out")
            _warn(f"{inside}.{key}".lstrip("."), f"{inside}.{new}".lstrip("."))
        found[new] = current(value, new) if not inside and new in KEYS and isinstance(value, Mapping) else value
    return found


@functools.cache
def _warn(old: str, new: str) -> None:
    print(f"warning: the key '{old}' is called '{new}' now; the old name goes with the next release", file=sys.stderr)
