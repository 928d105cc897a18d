"""Metrics as configs write them: a name, or one key with options, `{kid: {subsets: 50}}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from postdiff import metrics
from postdiff.engine.errors import UsageError
from postdiff.lab.config.layers import merged
from postdiff.metrics.options import PLACES

__all__ = ["described", "names", "parsed", "places_left_out"]


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
    try:
        return name, merged(info.options, [(f"metric {name}", given or {})])
    except UsageError as error:
        told = str(error)
        raise UsageError(told if told.startswith("metric ") else f"metric {name}: {told}") from None


def names(specs: Sequence[Any] | None) -> list[str]:
    """Names alone.

    Raises:
        UsageError: an entry is wrong, or a metric is named twice.
    """
    found = [parsed(spec)[0] for spec in specs or ()]
    if len(set(found)) != len(found):
        raise UsageError(f"metrics={found} names a metric twice; name it once")
    return found


def described(spec: Any) -> Any:
    """An entry with every option that is not at its default; the name alone if there is none."""
    name, options = parsed(spec)
    if options is None:
        return name
    default = type(options)()
    changed = {key: value for key, value in dataclasses.asdict(options).items() if value != getattr(default, key)}
    return {name: changed} if changed else name


def places_left_out(spec: Any) -> Any:
    """As `described`, without where files are: what is in them is part of a run's identity by its hash."""
    found = described(spec)
    if isinstance(found, str):
        return found
    [(name, options)] = found.items()
    kept = {key: value for key, value in options.items() if key not in PLACES}
    return {name: kept} if kept else name
