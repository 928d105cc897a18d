"""Metrics as configs write them: a name, or one key with options, `{kid: {subsets: 50}}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from postdiff import metrics
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.config.layers import merged

__all__ = ["described", "names", "parsed"]

# Options that say where a file is. What is in it, not where it is, belongs to a run's identity.
PLACES = ("extractor", "reference", "model", "weights")


def parsed(spec: Any) -> tuple[str, Any]:
    """Name and options (None if the metric has none) of one entry.

    Raises:
        UsageError: unknown metric or option, a value of the wrong type or out of range, or not of that form.
    """
    name, given = _split(spec)
    schema = metrics.load(name).Options
    if schema is None:
        if given:
            raise UsageError(f"metric {name} has no options; write its name alone")
        return name, None
    return name, merged(schema, [(f"metric {name}", given)])


def _split(spec: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and options as they are written."""
    name, given = spec, None
    if isinstance(spec, Mapping) and len(spec) == 1:
        [(name, given)] = spec.items()
    if not isinstance(name, str) or not (given is None or isinstance(given, Mapping)):
        raise UsageError(f"a metric is written as its name or as {{name: {{option: value}}}}, not {spec!r}")
    if name not in metrics.names():
        raise unknown("metric", name, metrics.names())
    return name, given or {}


def names(specs: Sequence[Any] | None) -> list[str]:
    """Names alone.

    Raises:
        UsageError: an entry is wrong, or a metric is named twice.
    """
    split = [(spec, *_split(spec)) for spec in specs or ()]
    # Options alone need the metric's class, and that needs torch, which takes seconds to load.
    found = [parsed(spec)[0] if given else name for spec, name, given in split]
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
