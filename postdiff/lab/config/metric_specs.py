"""Metrics as configs write them: a name, or one key with options, `{kid: {subsets: 50}}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from postdiff import metrics
from postdiff.engine.errors import UsageError
from postdiff.lab.config.layers import merged

__all__ = ["described", "names", "parsed"]


def parsed(spec: Any) -> tuple[str, Any]:
    """Name and options (None if the metric has none) of one entry.

    Raises:
        UsageError: unknown metric or option, a value of the wrong type or out of range, or not of that form.
    """
    name, given = spec, None
    if isinstance(spec, Mapping) and len(spec) == 1:
        [(name, given)] = spec.items()
    if not isinstance(name, str) or not (given is None or isinstance(given, Mapping)):
        raise UsageError(f"a metric is written as its name or as {{name: {{option: value}}}}, not {spec!r}")
    info = metrics.find(name)
    if info.options is None:
        if given:
            raise UsageError(f"metric {name} has no options; write its name alone")
        return name, None
    return name, merged(info.options, [(f"metric {name}", given or {})])


def names(specs: Sequence[Any] | None) -> list[str]:
    """Names alone.

    Raises:
        UsageError: an entry is wrong, or a metric is named twice.
    """
    found = [parsed(spec)[0] for spec in specs or ()]
    if len(set(found)) != len(found):
        raise UsageError(f"metrics={found} names a metric twice; name it once")
    return found


def described(spec: Any, without: Collection[str] = ()) -> Any:
    """An entry with every option that is not at its default; the name alone if there is none.

    Args:
        spec: the entry.
        without: options left out, for instance `PLACES`: what is in files, not where they are, makes an identity.
    """
    name, options = parsed(spec)
    if options is None:
        return name
    default, given = type(options)(), dataclasses.asdict(options)
    changed = {key: given[key] for key in given if key not in without and given[key] != getattr(default, key)}
    return {name: changed} if changed else name
