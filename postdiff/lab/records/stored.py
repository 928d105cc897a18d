"""What is stored of a row: where its images are, whether all of it is whole, and taking it away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postdiff.lab.data.samples import Sample, batch_name
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records import job_record
from postdiff.lab.records.record import Record, fresh_path, full

__all__ = ["finished", "images_of", "recorded", "references_of", "remove", "unsound"]

Report = Callable[[str], None]


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
    record = recorded(plan, "quality", plan.run_id)
    if record is None:
        return False
    rows = job_record.image_values(record)
    if rows is None:
        report(f"{plan.name}: the values of its images are missing or damaged; they are measured again")
        return False
    # What was measured when the record was written need not be decoded again unless it has changed since.
    since = fresh_path(plan.experiment, plan.name).stat().st_mtime_ns
    images = images_of(plan)
    for folder in filter(None, (images, references_of(plan))):
        if mend:
            folders.remove_stale_files(folder.folder)
        if trouble := unsound(folder, plan.samples, since):
            report(f"{plan.name}: has its record, but in {folder.folder} {trouble}; they are made anew")
            return False
    if mend:
        images.list_in_manifest(rows)
    return True


def recorded(plan: Plan, kind: str, run_id: str) -> Record | None:
    """The row's fresh record of one kind, if it is full, of this run, and made by the same kind of device."""
    found = full(plan.experiment, plan.name, kind, run_id)
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
        job_record.remove(plan, timed=timed and plan.config.bench.repeats > 0)
    for folder in dict.fromkeys(found.values()):
        with ImageFolder(folder).lock(None, report):
            for plan in plans:  # whoever was waited for may have kept a record
                if found[plan.name] == folder:
                    job_record.remove(plan, timed=False)
            folders.discard(folder)
