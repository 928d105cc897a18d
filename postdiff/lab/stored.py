"""Whether a row is done: its record is whole, and so is all that the record speaks of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postdiff.lab import row
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan import Plan
from postdiff.lab.records import job_record
from postdiff.lab.records.record import Record, fresh_path, full
from postdiff.lab.samples import Sample

__all__ = ["finished", "recorded", "unsound"]

Say = Callable[[str], None]


def finished(plan: Plan, say: Say, mend: bool = True) -> bool:
    """Whether nothing is left to do: record, figures and pictures are there and whole.

    Args:
        plan: the row.
        say: told why a row that has its record is run again.
        mend: also sweep what killed processes left, and list the pictures again if the list is not whole.

    Raises:
        UsageError: a picture may not be opened, or a folder stands in its place.
    """
    record = recorded(plan, "quality", plan.run_id)
    if record is None:
        return False
    rows = job_record.image_values(record)
    if rows is None:
        say(f"{plan.name}: the figures of its pictures are missing or damaged; they are measured again")
        return False
    # What was measured when the record was written need not be decoded again unless it has changed since.
    since = fresh_path(plan.experiment, plan.name).stat().st_mtime_ns
    own = quality.pictures(plan)
    for folder in [own, *([quality.reference_pictures(plan)] if plan.paired else [])]:
        if mend:
            folders.sweep(folder.folder)
        if trouble := unsound(folder, plan.samples, since):
            say(f"{plan.name}: has its record, but in {folder.folder} {trouble}; they are made anew")
            return False
    if mend:
        own.list_in_manifest(rows)
    return True


def recorded(plan: Plan, kind: str, run_id: str) -> Record | None:
    """The row's fresh record of one kind, if it is full, of this run, and made by the same kind of device."""
    found = full(plan.experiment, plan.name, kind, run_id)
    if found is None or (kind == "quality" and found.n_asked != len(plan.samples)):
        return None
    on_gpu = [name.startswith("cuda") for name in (found.config.get("device", ""), plan.config.device)]
    return found if on_gpu[0] == on_gpu[1] else None


def unsound(folder: ImageFolder, samples: Sequence[Sample], since: int | None = None) -> str:
    """What is wrong with the pictures of samples, in a few words; empty if nothing is.

    Args:
        folder: where they are.
        samples: which.
        since: see `ImageFolder.damaged`.
    """
    damaged = folder.damaged(samples, since)
    lost = sum((file := folder.file(sample)) in damaged or not file.is_file() for sample in samples)
    return f"{lost} of {len(samples)} pictures are missing or damaged" if lost or damaged else ""
