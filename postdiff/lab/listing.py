"""What there is: models, methods, experiments, data sets and metrics, each with one line about it."""

from __future__ import annotations

import json
from collections.abc import Callable

from postdiff import catalog, methods, presets
from postdiff.engine.errors import unknown
from postdiff.lab.inputs import data_cards
from postdiff.lab.settings.schema import read_yaml
from postdiff.metrics import METRICS

__all__ = ["KINDS", "listing", "render"]

Entry = dict[str, str]


def listing(kind: str) -> list[Entry]:
    """Entries of one kind, each with `kind`, `name` and `summary`.

    Raises:
        UsageError: unknown kind, or a broken file.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return KINDS[kind]()


def render(kind: str | None, style: str) -> str:
    """Entries of one kind, or of all if None: as "json", or as "text" in aligned lines below headings.

    Raises:
        UsageError: unknown kind, or a broken file.
    """
    kinds = {each: listing(each) for each in ([kind] if kind else KINDS)}
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


def _cards(kind: str) -> list[Entry]:
    entries = []
    for name in catalog.names(kind):
        summary = read_yaml(catalog.path(kind, name)).get("summary", "")
        entries.append({"kind": kind, "name": name, "summary": str(summary)})
    return entries


def _methods() -> list[Entry]:
    entries = []
    for name in methods.names():
        summary = (methods.find(name).__doc__ or "").strip().splitlines()
        entries.append({"kind": "methods", "name": name, "summary": summary[0] if summary else ""})
    known = {entry["name"] for entry in entries}
    for name in catalog.names("methods"):
        # A preset may bear its method's name; specs mean the preset then, and one line says both.
        if name not in known:
            summary_line = f"preset: {presets.preset(name).label}"
            entries.append({"kind": "methods", "name": name, "summary": summary_line})
    return sorted(entries, key=lambda entry: entry["name"])


def _data() -> list[Entry]:
    entries = _cards("data")
    known = {entry["name"] for entry in entries}
    for name in data_cards.prepared_names():
        if name not in known:
            entries.append({"kind": "data", "name": name, "summary": f"prepared: {data_cards.prepared(name)}"})
    return sorted(entries, key=lambda entry: entry["name"])


def _metrics() -> list[Entry]:
    return [{"kind": "metrics", "name": name, "summary": info.summary} for name, info in METRICS.items()]


KINDS: dict[str, Callable[[], list[Entry]]] = {
    "models": lambda: _cards("models"),
    "methods": _methods,
    "experiments": lambda: _cards("experiments"),
    "data": _data,
    "metrics": _metrics,
}
