"""The records of a plan: what each says of plan, code and machine is filled in; they are kept, read again and removed.

Beside a quality record lies a CSV file of the same name, with the values of the single images.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.devices import distributed, provenance
from postdiff.lab.files import folders
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import KINDS, Record, find, fresh_path, full

__all__ = ["fill", "image_values", "keep", "last", "now", "refuse_folders", "remove"]


def now() -> str:
    """The time of day in UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fill(plan: Plan, kind: str, started: str, **measured: Any) -> Record:
    """A record that ends now.

    Args:
        plan: the row.
        kind: "quality" or "speed".
        started: as of `now`.
        measured: the fields of `Record` that belong to the kind and that the plan does not tell.
    """
    together = distributed.share().of
    name = provenance.device_name(plan.config.device)
    of_kind: dict[str, Any] = {"run_id": plan.speed_id}
    if kind == "quality":
        of_kind = {"run_id": plan.run_id, "images": plan.images_id, "n_asked": len(plan.samples)}
        of_kind["references"] = plan.references_id if plan.paired else None
    return Record(
        kind=kind,
        experiment=plan.experiment,
        row=plan.name,
        label=plan.row.label,
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
        **of_kind,
        **measured,
    )


def last(plan: Plan) -> Record | None:
    """The row's last quality record, if it is of the same images."""
    try:
        found = find(plan.experiment, plan.name)
    except UsageError:
        return None  # damaged: it is written anew
    return found if found is not None and found.images == plan.images_id else None


def keep(record: Record, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a quality record and its images' values, unless another part of the same run has finished both.

    Args:
        record: what to write.
        rows: one mapping an image, with equal keys.
    """
    file = fresh_path(record.experiment, record.row)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["index", "prompt", "seed"])
    writer.writeheader()
    writer.writerows(rows)
    content = stream.getvalue().encode()
    record.values = hashlib.sha256(content).hexdigest()
    with folders.lock(f"records/{record.experiment}/{record.row}"):
        if not record.full and full(record.experiment, record.row, record.kind, record.run_id):
            return
        with folders.atomic_write(file.with_suffix(".csv")) as temporary:
            temporary.write_bytes(content)
        record.write(file)


def image_values(record: Record) -> list[dict[str, str]] | None:
    """The lines of a fresh record's CSV file; None if it is not there, or not as it was written."""
    try:
        content = fresh_path(record.experiment, record.row).with_suffix(".csv").read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != record.values:
        return None
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def refuse_folders(plan: Plan) -> None:
    """Refuse to run a row whose results could not take their places.

    Raises:
        UsageError: a folder stands where a file must go.
    """
    files = [fresh_path(plan.experiment, plan.name, kind) for kind in KINDS]
    for file in (*files, files[0].with_suffix(".csv")):
        folders.refuse_folder(file)


def remove(plan: Plan, *, timed: bool) -> None:
    """Take away what is recorded of a row's images and, if asked, of its times."""
    quality, speed = (fresh_path(plan.experiment, plan.name, kind) for kind in ("quality", "speed"))
    with folders.lock(f"records/{plan.experiment}/{plan.name}"):
        for file in (quality, quality.with_suffix(".csv"), *([speed] if timed else [])):
            file.unlink(missing_ok=True)
