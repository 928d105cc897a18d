"""Filling in what every record says of its plan, code and machine, whatever was measured; and keeping it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.devices import distributed, provenance
from postdiff.lab.files import folders, locks
from postdiff.lab.plan import Plan
from postdiff.lab.records import results
from postdiff.lab.records.record import Record, Value

__all__ = ["figures", "keep", "last", "now", "quality", "record", "refuse_folders", "remove"]


def now() -> str:
    """The time of day in UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record(plan: Plan, *, kind: str, run_id: str, started: str, **measured: Any) -> Record:
    """A record that ends now; `measured` holds the fields of `Record` that belong to its kind."""
    together = distributed.share().of
    name = provenance.device_name(plan.config.device)
    return Record(
        kind=kind,
        experiment=plan.experiment,
        row=plan.name,
        label=plan.row.label,
        run_id=run_id,
        config=plan.resolved(),
        changed=dict(plan.row.changed),
        checkpoint=plan.checkpoint,
        seeds=list(plan.config.seeds),
        prompts=plan.prompts_hash,
        device=name if together == 1 else f"{together} x {name}",
        dtype=str(plan.config.dtype),
        started=started,
        ended=now(),
        git=provenance.git(),
        versions=provenance.versions(),
        **measured,
    )


def quality(
    plan: Plan, started: str, rows: Sequence[Mapping[str, Any]], metrics: dict[str, Value], **measured: Any
) -> Record:
    """The record of a row's pictures.

    Args:
        plan: the row.
        started: as of `now`.
        rows: one mapping a picture that was measured.
        metrics: their values by name.
        measured: the other fields of `Record` that only a pipeline can tell.
    """
    return record(
        plan,
        kind="quality",
        run_id=plan.run_id,
        started=started,
        pictures=plan.images_id,
        references=plan.references_id if plan.paired else None,
        n_asked=len(plan.samples),
        n_done=len(rows),
        metrics=metrics,
        **measured,
    )


def last(plan: Plan) -> Record | None:
    """The row's last quality record, if it is of the same pictures."""
    try:
        found = results.find(plan.experiment, plan.name)
    except UsageError:
        return None  # damaged: it is written anew
    return found if found is not None and found.pictures == plan.images_id else None


def keep(record: Record, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a quality record and its pictures' figures, unless another part of the same run has finished both.

    Args:
        record: what to write.
        rows: one mapping a picture, with equal keys.
    """
    file = results.fresh_path(record.experiment, record.row)
    content = _csv(rows)
    record.figures = hashlib.sha256(content).hexdigest()
    with locks.writing(f"{record.experiment}/{record.row}"):
        if not record.full and results.full(record.experiment, record.row, record.kind, record.run_id):
            return
        with folders.whole_file(file.with_suffix(".csv")) as temporary:
            temporary.write_bytes(content)
        record.write(file)


def figures(record: Record) -> list[dict[str, str]] | None:
    """The lines of a fresh record's CSV file; None if it is not there, or not as it was written."""
    try:
        content = _csv_file(record.experiment, record.row).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != record.figures:
        return None
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def refuse_folders(plan: Plan) -> None:
    """Refuse to run a row whose results could not take their places.

    Raises:
        UsageError: a folder stands where a file must go.
    """
    for file in (
        *(results.fresh_path(plan.experiment, plan.name, kind) for kind in results.KINDS),
        _csv_file(plan.experiment, plan.name),
    ):
        folders.refuse_folder(file)


def remove(plan: Plan, *, timed: bool) -> None:
    """Take away what is recorded of a row's pictures and, if asked, of its times."""
    quality, speed = (results.fresh_path(plan.experiment, plan.name, kind) for kind in ("quality", "speed"))
    with locks.writing(f"{plan.experiment}/{plan.name}"):
        for file in (quality, _csv_file(plan.experiment, plan.name), *([speed] if timed else [])):
            file.unlink(missing_ok=True)


def _csv_file(experiment: str, row: str) -> Path:
    return results.fresh_path(experiment, row).with_suffix(".csv")


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["index", "prompt", "seed"])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()
