"""What there is: models, methods, experiments, data sets, metrics and loggers, each with one line about it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable

from postdiff import catalog, methods, presets
from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.lab import loggers
from postdiff.lab.config.layers import read_yaml
from postdiff.lab.inputs import data_cards
from postdiff.lab.loggers.base import Logger
from postdiff.metrics import METRICS

__all__ = ["KINDS", "listing", "render"]

Entry = dict[str, str]
Say = Callable[[str], None]


def listing(kind: str, say: Say = warnings.warn) -> list[Entry]:
    """Entries of one kind, each with `kind`, `name` and `summary`.

    Args:
        kind: one of `KINDS`.
        say: told which files are left out since they are broken.

    Raises:
        UsageError: unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return KINDS[kind](say)


def render(kind: str | None, style: str, say: Say = warnings.warn) -> str:
    """Entries of one kind, or of all if None: as "json", or as "text" in aligned lines below headings.

    Raises:
        UsageError: unknown kind.
    """
    kinds = {each: listing(each, say) for each in ([kind] if kind else KINDS)}
    entries = [entry for found in kinds.values() for entry in found]
    if style == "json":
        return json.dumps(entries, indent=1)
    width = max((len(entry["name"]) for entry in entries), default=0)
    blocks = []
    for name, found in kinds.items():
        lines = [f"  {entry['name']:{width}}  {entry['summary']}".rstrip() for entry in found]
        if lines:
            blocks.append("\n".join(lines if kind else [name, *lines]))
    return "\n\n".join(blocks)


def _entries(kind: str, names: Iterable[str], about: Callable[[str], str], say: Say) -> list[Entry]:
    """An entry for each name whose file is sound."""
    found = []
    for name in names:
        try:
            summary = shown(" ".join(about(name).split()), 400)
            found.append({"kind": kind, "name": shown(name, 200), "summary": summary})
        except UsageError as error:
            say(f"left out: {error}")
    return found


def _cards(kind: str, say: Say) -> list[Entry]:
    def about(name: str) -> str:
        return str(read_yaml(catalog.path(kind, name)).get("summary", ""))

    return _entries(kind, catalog.names(kind), about, say)


def _methods(say: Say) -> list[Entry]:
    known = sorted({*methods.names(), *methods.twice()})
    entries = _entries("methods", known, methods.summary, say)
    # A preset may bear its method's name; specs mean the preset then, and one line says both.
    others = [name for name in catalog.names("methods") if name not in known]
    entries += _entries("methods", others, lambda name: f"preset: {presets.preset(name).label}", say)
    return sorted(entries, key=lambda entry: entry["name"])


def _data(say: Say) -> list[Entry]:
    known = catalog.names("data")
    prepared = [name for name in data_cards.prepared_names() if name not in known]
    entries = _cards("data", say) + _entries(
        "data", prepared, lambda name: f"prepared: {data_cards.prepared(name)}", say
    )
    return sorted(entries, key=lambda entry: entry["name"])


def _metrics(say: Say) -> list[Entry]:
    return [{"kind": "metrics", "name": name, "summary": info.summary} for name, info in METRICS.items()]


def _loggers(say: Say) -> list[Entry]:
    def about(name: str) -> str:
        return (
            loggers.SHIPPED.get(name) or str(plugins.find("loggers", name, Logger).__doc__ or "").strip().split("\n")[0]
        )

    return _entries("loggers", sorted({*loggers.SHIPPED, *plugins.own("loggers")}), about, say)


KINDS: dict[str, Callable[[Say], list[Entry]]] = {
    "models": lambda say: _cards("models", say),
    "methods": _methods,
    "experiments": lambda say: _cards("experiments", say),
    "data": _data,
    "metrics": _metrics,
    "loggers": _loggers,
}
