"""What a report tells, as plain data: of the records that are there, of their images, and of the work of every step."""

from __future__ import annotations

from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.records.record import Record, find
from postdiff.lab.report import images, summary, timeline
from postdiff.lab.report.recorded import ASIDE
from postdiff.lab.tables.rows import FlatRow, flat_rows
from postdiff.lab.tables.table import columns, notes_on
from postdiff.metrics import facts, names

__all__ = ["contents"]

# Costs that a quality may be drawn against: key of a flat row -> title.
COSTS = {
    "macs_g": "MACs of an image (G)",
    "time_s": "time of an image (s)",
    "network_calls": "network calls of an image",
}


def contents(experiment: Experiment) -> dict[str, Any]:
    """Everything on the page, made of numbers, text and encoded images alone.

    Args:
        experiment: which rows, in which order; those without a record are named as missing.

    Raises:
        UsageError: no row has a record, or an image that a record speaks of is damaged.
    """
    rows = flat_rows(experiment)
    records = {row.name: _record(experiment, row.name) for row in experiment.rows}
    measured = [row for row in rows if records[row["row"]] is not None]
    plain = {name for name, record in records.items() if record is not None and _plain(record)}
    metrics = _metrics(rows)
    table = columns(rows)
    return {
        "title": experiment.name,
        "about": experiment.summary,
        "summary": summary.sentences(measured, plain, metrics),
        "missing": [row["label"] for row in rows if records[row["row"]] is None],
        "table": {
            "headings": [column.heading for column in table],
            "rows": [[column.cell(row) for column in table] for row in rows],
            "notes": notes_on(rows),
        },
        "costs": {key: title for key, title in COSTS.items() if any(row.get(key) for row in measured)},
        "metrics": {name: _titled(name) for name in metrics},
        "points": [_point(row, row["row"] in plain, metrics) for row in measured],
        "images": images.encoded({row["row"]: records[row["row"]] for row in measured}, experiment.name),
        "timelines": timeline.timelines(experiment),
        "provenance": [_provenance(record) for record in records.values() if record is not None],
        "versions": _versions([record for record in records.values() if record is not None]),
    }


def _record(experiment: Experiment, row: str) -> Record | None:
    try:
        return find(experiment.name, row)
    except UsageError:
        return None  # damaged, and told so by whatever lists the rows


def _plain(record: Record) -> bool:
    """Whether a row takes fewer steps, or as many, and does nothing else."""
    stages = record.config.get("stages") or {}
    return not record.config.get("methods") and not any(stage.get("methods") for stage in stages.values())


def _metrics(rows: list[FlatRow]) -> list[str]:
    """Names of the metrics that at least two rows have: paired ones first, as those tell rows apart best."""
    found = [name for name in names() if sum(row.get(name) is not None for row in rows) > 1]
    return sorted(found, key=lambda name: "references" not in facts(name).needs)


def _titled(name: str) -> dict[str, Any]:
    info = facts(name)
    return {"title": info.title, "digits": info.digits, "higher": info.higher_is_better}


def _point(row: FlatRow, plain: bool, metrics: list[str]) -> dict[str, Any]:
    values = {name: [row.get(name), row.get(f"{name}_spread") or 0] for name in metrics}
    costs = {key: row.get(key) for key in COSTS}
    return {"row": row["row"], "label": row["label"], "plain": plain, "saving": row.get("macs_saving")} | costs | values


def _provenance(record: Record) -> dict[str, str]:
    git = record.git
    commit = f"{git['commit'][:12]}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else "-"
    return {
        "row": record.label,
        "images": f"{record.n_done} of {record.n_asked}",
        "seeds": ", ".join(map(str, record.seeds)),
        "model": f"{record.config.get('model', '')} ({record.checkpoint[:24]})",
        "device": record.device,
        "dtype": record.dtype,
        "ended": record.ended,
        "commit": commit,
        "run": record.run_id,
        "changed": ", ".join(f"{key}={value}" for key, value in record.changed.items() if key not in ASIDE) or "-",
    }


def _versions(records: list[Record]) -> list[str]:
    """The libraries of each row, rows of equal ones together."""
    found: dict[str, list[str]] = {}
    for record in records:
        text = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        found.setdefault(text, []).append(record.label)
    return [text if len(found) == 1 else f"{', '.join(labels)}: {text}" for text, labels in found.items()]
