"""What there is of each kind, each with one line about it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable

from postdiff import catalog, methods, metrics, presets
from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.family import FAMILIES, Family
from postdiff.lab import loggers
from postdiff.lab.config import schedulers
from postdiff.lab.config.schedulers import SCHEDULERS
from postdiff.lab.data import conditions, data_cards
from postdiff.lab.loggers.base import Logger

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
    names, about = KINDS[kind]
    found = []
    for name in sorted({*names()}):
        try:
            summary = shown(" ".join(about(name).split()), 400)
            found.append({"kind": kind, "name": shown(name, 200), "summary": summary})
        except UsageError as error:
            say(f"left out: {error}")
    return found


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


def _of_card(kind: str, name: str) -> str:
    return str(catalog.read(catalog.path(kind, name)).get("summary", ""))


def _of_method(name: str) -> str:
    # A preset may bear its method's name; specs mean the preset then, and one line says both.
    if name in methods.names() or name in methods.twice():
        return methods.summary(name)
    return f"preset: {presets.preset(name).label}"


def _of_data(name: str) -> str:
    return _of_card("data", name) if name in catalog.names("data") else f"prepared: {data_cards.prepared(name)}"


def _of_scheduler(name: str) -> str:
    plugins.one_file("schedulers", name, SCHEDULERS)  # ours are not imported: loading torch takes seconds
    return SCHEDULERS.get(name) or _first_line(schedulers.find(name))


def _of_family(name: str) -> str:
    row: Family = plugins.find("families", name, Family, FAMILIES) or FAMILIES[name]
    return f"denoiser: {row.network}, branches of guidance: {row.calls if row.cfg else 'none'}"


def _first_line(cls: type) -> str:
    return next(iter((cls.__doc__ or "").strip().splitlines()), "")


# Of each kind all names, and what is told of one.
KINDS: dict[str, tuple[Callable[[], Iterable[str]], Callable[[str], str]]] = {
    "models": (lambda: catalog.names("models"), lambda name: _of_card("models", name)),
    "methods": (lambda: [*methods.names(), *methods.twice(), *catalog.names("methods")], _of_method),
    "experiments": (lambda: catalog.names("experiments"), lambda name: _of_card("experiments", name)),
    "plans": (lambda: catalog.names("plans"), lambda name: _of_card("plans", name)),
    "data": (lambda: [*catalog.names("data"), *data_cards.prepared_names()], _of_data),
    "metrics": (metrics.names, lambda name: metrics.facts(name).summary),
    "schedulers": (lambda: [*SCHEDULERS, *plugins.own("schedulers")], _of_scheduler),
    "conditions": (
        lambda: [*conditions.CONDITIONS, *plugins.own("conditions")],
        lambda name: _first_line(conditions.find(name)),
    ),
    "loggers": (
        lambda: [*loggers.SHIPPED, *plugins.own("loggers")],
        lambda name: loggers.SHIPPED.get(name) or _first_line(plugins.find("loggers", name, Logger)),
    ),
    "families": (lambda: [*FAMILIES, *plugins.own("families")], _of_family),
}
