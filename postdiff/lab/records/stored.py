"""What is stored of a row, its records and its images: filled in, kept, found whole or not, and taken away.

Beside a quality record lies a CSV file of the same name, with the values of the single images.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.data.samples import Sample, batch_name
from postdiff.lab.devices import distributed, provenance
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import KINDS, Record, find, fresh_path, full

__all__ = [
    "fill",
    "finished",
    "images_of",
    "keep",
    "last",
    "now",
    "recorded",
    "references_of",
    "refuse_folders",
    "remove",
    "unsound",
]

Report = Callable[[str], None]


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


def refuse_folders(plan: Plan) -> None:
    """Refuse to run a row whose results could not take their places.

    Raises:
        UsageError: a folder stands where a file must go.
    """
    files = [fresh_path(plan.experiment, plan.name, kind) for kind in KINDS]
    for file in (*files, files[0].with_suffix(".csv")):
        folders.refuse_folder(file)


def images_of(plan: Plan) -> ImageFolder:
    """Where a row's images are; rows of equal settings share them, in whatever experiment they stand."""
    batch_of: dict[tuple[int, int], str] = {}
    for batch in plan.batches:
        batch_of |= dict.fromkeys(((sample.seed, sample.index) for sample in batch), batch_name(batch))
    return ImageFolder(folders.outputs() / "images" / plan.images_id, batch_of)


def references_of(plan: Plan) -> ImageFolder | None:
    """Where the images are that paired metrics compare with; None if no metric is one."""
    return images_of(plan.reference()) if plan.paired else None


def finished(plan: Plan, report: Report, mend: bool = True) -> bool:
    """Whether nothing is left to do: record, values and images are there and whole.

    Args:
        plan: the row.
        report: given why a row that has its record is run again.
        mend: also sweep what killed processes left, and list the images again if the list is not whole.

    Raises:
        UsageError: an image may not be opened, or a folder stands in its place.
    """
    record = recorded(plan, "quality")
    if record is None:
        return False
    file = fresh_path(plan.experiment, plan.name)
    try:
        values = file.with_suffix(".csv").read_bytes()
    except OSError:
        values = b""
    if hashlib.sha256(values).hexdigest() != record.values:
        report(f"{plan.name}: the values of its images are missing or damaged; they are measured again")
        return False
    # What was measured when the record was written need not be decoded again unless it has changed since.
    since = file.stat().st_mtime_ns
    images = images_of(plan)
    for folder in filter(None, (images, references_of(plan))):
        if mend:
            folders.remove_stale_files(folder.folder)
        if trouble := unsound(folder, plan.samples, since):
            report(f"{plan.name}: has its record, but in {folder.folder} {trouble}; they are made anew")
            return False
    if mend:
        images.list_in_manifest(csv.DictReader(io.StringIO(values.decode(), newline="")))
    return True


def recorded(plan: Plan, kind: str) -> Record | None:
    """The row's fresh record of one kind, if it is full, of this run, and made by the same kind of device."""
    found = full(plan.experiment, plan.name, kind, plan.run_id if kind == "quality" else plan.speed_id)
    if found is None or (kind == "quality" and found.n_asked != len(plan.samples)):
        return None
    on_gpu = [name.startswith("cuda") for name in (found.config.get("device", ""), plan.config.device)]
    return found if on_gpu[0] == on_gpu[1] else None


def unsound(folder: ImageFolder, samples: Sequence[Sample], since: int | None = None) -> str:
    """What is wrong with the images of samples, in a few words; empty if nothing is.

    Args:
        folder: where they are.
        samples: which.
        since: see `ImageFolder.damaged`.
    """
    damaged = folder.damaged(samples, since)
    lost = sum((file := folder.file(sample)) in damaged or not file.is_file() for sample in samples)
    return f"{lost} of {len(samples)} images are missing or damaged" if lost or damaged else ""


def remove(plans: Sequence[Plan], timed: bool, report: Report) -> None:
    """Take away what --fresh makes again. Records go first: none may ever speak of images that are gone.

    Args:
        plans: the rows.
        timed: whether their times go as well.
        report: given for whom this process waits.
    """
    found = {plan.name: images_of(plan).folder for plan in plans}
    for folder in found.values():
        folders.refuse_link(folder)
    for plan in plans:
        _remove_records(plan, KINDS if timed and plan.config.bench.repeats else ("quality",))
    for folder in dict.fromkeys(found.values()):
        with ImageFolder(folder).lock(None, report):
            for plan in plans:  # whoever was waited for may have kept a record
                if found[plan.name] == folder:
                    _remove_records(plan, ("quality",))
            folders.discard(folder)


def _remove_records(plan: Plan, kinds: Sequence[str]) -> None:
    with folders.lock(f"records/{plan.experiment}/{plan.name}"):
        for kind in kinds:
            fresh_path(plan.experiment, plan.name, kind).unlink(missing_ok=True)
        fresh_path(plan.experiment, plan.name).with_suffix(".csv").unlink(missing_ok=True)
