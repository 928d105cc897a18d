"""An experiment from start to end: quality row by row, then speed of all rows in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from postdiff.engine.errors import UsageError
from postdiff.lab import progress
from postdiff.lab.devices import distributed, placement
from postdiff.lab.drawing.sampling import Pipelines
from postdiff.lab.files import folders
from postdiff.lab.inputs.data import Shard
from postdiff.lab.job import Job, prepare
from postdiff.lab.mirrors import mirror
from postdiff.lab.pipelines import random_weights
from postdiff.lab.records import recording
from postdiff.lab.runs import finished, quality
from postdiff.lab.settings.experiment import Experiment
from postdiff.lab.storage import grid, locks
from postdiff.lab.timing import speed

__all__ = ["bench", "draw_grid", "run", "unfinished"]

Say = Callable[[str], None]


def run(
    experiment: Experiment, say: Say, shard: Shard | None = None, fresh: bool = False, timed: bool = True
) -> Path | None:
    """Run the rows whose records are not there yet, then draw the grid.

    On several devices this process starts the others, which end when the last row is measured.

    Args:
        experiment: the rows to run.
        say: told what is skipped and why.
        shard: make only this part of the pictures, and time nothing.
        fresh: make records and pictures again.
        timed: whether to measure speed as well.

    Returns:
        The grid's file, or None while pictures are missing.

    Raises:
        UsageError: a mistake in the experiment, or a folder that cannot be written.
    """
    random_weights.refuse_pictures(experiment)
    folders.writable_outputs()
    jobs = prepare(experiment)
    settings = placement.common(job.config for job in jobs)
    with distributed.crew(settings, jobs[0].config.device):
        pipelines = Pipelines()
        told = say if distributed.first() else _silent
        _quality([_placed(job) for job in jobs], pipelines, told, shard, fresh, timed)
    if shard is None and timed:
        _speed(jobs, pipelines, fresh)
    return _grid(experiment, jobs)


def unfinished(experiment: Experiment) -> list[str]:
    """Names of the rows that have no full record yet.

    Raises:
        UsageError: a mistake in the experiment.
    """
    random_weights.refuse_pictures(experiment)
    jobs = prepare(experiment)
    placement.common(job.config for job in jobs)
    return [job.name for job in jobs if not finished.finished(job, _silent, mend=False)]


def draw_grid(experiment: Experiment) -> Path | None:
    """The picture of an experiment whose rows were run elsewhere; None while pictures are missing."""
    return _grid(experiment, prepare(experiment))


def _quality(
    jobs: Sequence[Job], pipelines: Pipelines, say: Say, shard: Shard | None, fresh: bool, timed: bool
) -> None:
    todo = distributed.from_first(lambda: _todo(jobs, shard, fresh, timed, say))
    rows = progress.Rows(len(todo) if distributed.first() else 1)  # of a single row nothing is told
    for job in jobs:
        if job.name not in todo:
            say(f"{job.name}: done already (run {job.run_id}); --fresh makes it again")
            mirror.again(job, quality.pictures(job))
            continue
        with rows.row():
            record = quality.measure(job, pipelines, shard, say)
        if not record.full and distributed.first():
            missing = record.n_asked - record.n_done
            say(f"{job.name}: {missing} of {record.n_asked} pictures are missing; run the other parts")


def _todo(jobs: Sequence[Job], shard: Shard | None, fresh: bool, timed: bool, say: Say) -> list[str]:
    """Names of the rows to run; with `fresh` their old results are gone."""
    for job in jobs:
        recording.refuse_folders(job)
    folders.sweep(folders.outputs() / "pictures", deep=False)
    if fresh and shard is None:
        _remove(jobs, timed, say)
    return [job.name for job in jobs if fresh or not finished.finished(job, say)]


def _remove(jobs: Sequence[Job], timed: bool, say: Say) -> None:
    """Take away what --fresh makes again. Records go first: none may ever speak of pictures that are gone."""
    found = {job.name: quality.pictures(job).folder for job in jobs}
    for folder in found.values():
        folders.refuse_link(folder)
    for job in jobs:
        recording.remove(job, timed=timed and job.config.bench.repeats > 0)
    for folder in dict.fromkeys(found.values()):
        with locks.making(folder, None, say):
            for job in jobs:  # whoever was waited for may have kept a record
                if found[job.name] == folder:
                    recording.remove(job, timed=False)
            folders.discard(folder)


def _placed(job: Job) -> Job:
    place = distributed.placed(job.config.device)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, device=place))


def _silent(message: str) -> None:
    """What the other devices have to say, the first one says."""


def bench(experiment: Experiment) -> None:
    """Time all rows in turns.

    Raises:
        UsageError: a mistake in the experiment, or nothing to time.
    """
    folders.writable_outputs()
    jobs = prepare(experiment)
    if not any(job.config.bench.repeats for job in jobs):
        raise UsageError("bench.repeats=0 leaves nothing to time; use bench.repeats=5")
    speed.measure(jobs, Pipelines())


def _speed(jobs: Sequence[Job], pipelines: Pipelines, fresh: bool) -> None:
    # Times are comparable only when taken in turns, so one missing row means timing all of them again.
    wanted = [job for job in jobs if job.config.bench.repeats]
    if fresh or not all(finished.recorded(job, "speed", job.speed_id) for job in wanted):
        speed.measure(wanted, pipelines)


def _grid(experiment: Experiment, jobs: Sequence[Job]) -> Path | None:
    rows = [(job.row.label, quality.pictures(job)) for job in jobs]
    seed = jobs[0].config.seeds[0]
    samples = [sample for sample in jobs[0].samples if sample.seed == seed][: grid.COLUMNS]
    if any(finished.unsound(folder, samples) for _, folder in rows):
        return None
    file = folders.outputs() / "grids" / f"{experiment.name}.png"
    grid.draw(rows, samples, file)
    return file
