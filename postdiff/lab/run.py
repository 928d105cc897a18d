"""An experiment from start to end: quality row by row, then speed of all rows in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from postdiff.engine.errors import UsageError
from postdiff.lab import progress, row
from postdiff.lab.bench import speed
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.data.samples import Shard
from postdiff.lab.devices import distributed, placement
from postdiff.lab.files import folders
from postdiff.lab.generate.loop import Report
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.images import grid
from postdiff.lab.loggers import log
from postdiff.lab.plan.plan import Plan, plan_rows
from postdiff.lab.records import stored
from postdiff.lab.records.record import Record

__all__ = ["bench", "draw_grid", "run", "score", "unfinished"]


def run(
    experiment: Experiment,
    report: Report,
    shard: Shard | None = None,
    fresh: bool = False,
    timed: bool = True,
    grids: bool = True,
) -> Path | None:
    """Run the rows whose records are not there yet, then draw the grid.

    On several devices this process starts the others, which end when the last row is measured.

    Args:
        experiment: the rows to run.
        report: given what is skipped and why.
        shard: generate only this part of the images, and time nothing.
        fresh: make records and images again.
        timed: whether to measure speed as well.
        grids: whether to draw the grid.

    Returns:
        The grid's file, or None while images are missing or if none was asked for.

    Raises:
        UsageError: a mistake in the experiment, or a folder that cannot be written.
    """
    plans, pipelines = plan_rows(experiment, images=True), Pipelines()
    folders.writable_outputs()
    with distributed.launch(placement.common(plan.config for plan in plans), plans[0].config.device):
        # What the other devices have to say, rank 0 says.
        report_once: Report = report if distributed.is_rank_zero() else lambda line: None
        left = distributed.broadcast(lambda: _left(plans, shard, fresh, timed, report_once))
        rows = progress.Rows(len(left) if distributed.is_rank_zero() else 1)  # a single row is not numbered
        for planned in plans:
            plan, device = planned, distributed.local_device(planned.config.device)
            if device != planned.config.device:  # else what was found out about its images need not be found again
                plan = dataclasses.replace(planned, config=dataclasses.replace(planned.config, device=device))
            if plan.name not in left:
                report_once(f"{plan.name}: done already (run {plan.run_id}); --fresh makes it again")
                log.relog(plan)
                continue
            with rows.row():
                record = row.measure(plan, pipelines, shard, report_once)
            if missing := record.n_asked - record.n_done:
                report_once(f"{plan.name}: {missing} of {record.n_asked} images are missing; run the other parts")
    to_time = [plan for plan in plans if plan.config.bench.repeats and shard is None and timed]
    # Times are comparable only when taken in turns, so one missing row means timing all of them again.
    if to_time and (fresh or not all(stored.recorded(plan, "speed") for plan in to_time)):
        speed.measure(to_time, pipelines)
    return draw_grid(experiment, plans) if grids else None


def score(experiment: Experiment, report: Report) -> list[Record]:
    """Measure the stored images of all rows, and write their records.

    Args:
        experiment: the rows; their `metrics` say what is measured.
        report: given what is missing.

    Raises:
        UsageError: a mistake in the experiment, a row without any image, or an image that is damaged.
    """
    plans, records = plan_rows(experiment, images=True), []
    folders.writable_outputs()
    for plan in plans:
        row.refuse_without_images(plan)
    rows = progress.Rows(len(plans))
    for plan in plans:
        with rows.row():
            records.append(row.score(plan, report))
    return records


def bench(experiment: Experiment) -> None:
    """Time all rows in turns.

    Raises:
        UsageError: a mistake in the experiment, or nothing to time.
    """
    folders.writable_outputs()
    plans = plan_rows(experiment)
    if not any(plan.config.bench.repeats for plan in plans):
        raise UsageError("bench.repeats=0 leaves nothing to time; use bench.repeats=5")
    speed.measure(plans, Pipelines())


def unfinished(experiment: Experiment) -> list[str]:
    """Names of the rows that have no full record yet.

    Raises:
        UsageError: a mistake in the experiment.
    """
    plans = plan_rows(experiment, images=True)
    placement.common(plan.config for plan in plans)
    return [plan.name for plan in plans if not stored.finished(plan, lambda line: None, mend=False)]


def _left(plans: Sequence[Plan], shard: Shard | None, fresh: bool, timed: bool, report: Report) -> list[str]:
    """Names of the rows to run; with `fresh` their old results are gone."""
    for plan in plans:
        stored.refuse_folders(plan)
    folders.remove_stale_files(folders.outputs() / "images", deep=False)
    if fresh and shard is None:
        stored.remove(plans, timed, report)
    return [plan.name for plan in plans if fresh or not stored.finished(plan, report)]


def draw_grid(experiment: Experiment, plans: Sequence[Plan]) -> Path | None:
    """The grid of an experiment's rows, wherever they were run; None while images are missing."""
    rows = [(plan.row.label, stored.images_of(plan)) for plan in plans]
    seed = plans[0].config.seeds[0]
    samples = [sample for sample in plans[0].samples if sample.seed == seed][: grid.COLUMNS]
    if any(stored.unsound(folder, samples) for _, folder in rows):
        return None
    file = folders.outputs() / "grids" / f"{experiment.name}.png"
    grid.draw(rows, samples, file)
    return file
