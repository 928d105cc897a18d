"""An experiment from start to end: quality row by row, then speed of all rows in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from postdiff.engine.errors import UsageError
from postdiff.lab import progress
from postdiff.lab.bench import speed
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.devices import distributed, placement
from postdiff.lab.files import folders
from postdiff.lab.images import grid, locks
from postdiff.lab.loggers import log
from postdiff.lab.pipelines import random_weights
from postdiff.lab.plan import Plan, plan_rows
from postdiff.lab.records import recording
from postdiff.lab.runs import finished, quality
from postdiff.lab.samples import Shard
from postdiff.lab.sampling.pipelines import Pipelines

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
    plans = plan_rows(experiment)
    settings = placement.common(plan.config for plan in plans)
    with distributed.crew(settings, plans[0].config.device):
        pipelines = Pipelines()
        told = say if distributed.is_rank_zero() else _silent
        _quality([_placed(plan) for plan in plans], pipelines, told, shard, fresh, timed)
    if shard is None and timed:
        _speed(plans, pipelines, fresh)
    return _grid(experiment, plans)


def unfinished(experiment: Experiment) -> list[str]:
    """Names of the rows that have no full record yet.

    Raises:
        UsageError: a mistake in the experiment.
    """
    random_weights.refuse_pictures(experiment)
    plans = plan_rows(experiment)
    placement.common(plan.config for plan in plans)
    return [plan.name for plan in plans if not finished.finished(plan, _silent, mend=False)]


def draw_grid(experiment: Experiment) -> Path | None:
    """The picture of an experiment whose rows were run elsewhere; None while pictures are missing."""
    return _grid(experiment, plan_rows(experiment))


def _quality(
    plans: Sequence[Plan], pipelines: Pipelines, say: Say, shard: Shard | None, fresh: bool, timed: bool
) -> None:
    todo = distributed.from_first(lambda: _todo(plans, shard, fresh, timed, say))
    rows = progress.Rows(len(todo) if distributed.is_rank_zero() else 1)  # of a single row nothing is told
    for plan in plans:
        if plan.name not in todo:
            say(f"{plan.name}: done already (run {plan.run_id}); --fresh makes it again")
            log.again(plan, quality.pictures(plan))
            continue
        with rows.row():
            record = quality.measure(plan, pipelines, shard, say)
        if not record.full and distributed.is_rank_zero():
            missing = record.n_asked - record.n_done
            say(f"{plan.name}: {missing} of {record.n_asked} pictures are missing; run the other parts")


def _todo(plans: Sequence[Plan], shard: Shard | None, fresh: bool, timed: bool, say: Say) -> list[str]:
    """Names of the rows to run; with `fresh` their old results are gone."""
    for plan in plans:
        recording.refuse_folders(plan)
    folders.sweep(folders.outputs() / "pictures", deep=False)
    if fresh and shard is None:
        _remove(plans, timed, say)
    return [plan.name for plan in plans if fresh or not finished.finished(plan, say)]


def _remove(plans: Sequence[Plan], timed: bool, say: Say) -> None:
    """Take away what --fresh makes again. Records go first: none may ever speak of pictures that are gone."""
    found = {plan.name: quality.pictures(plan).folder for plan in plans}
    for folder in found.values():
        folders.refuse_link(folder)
    for plan in plans:
        recording.remove(plan, timed=timed and plan.config.bench.repeats > 0)
    for folder in dict.fromkeys(found.values()):
        with locks.making(folder, None, say):
            for plan in plans:  # whoever was waited for may have kept a record
                if found[plan.name] == folder:
                    recording.remove(plan, timed=False)
            folders.discard(folder)


def _placed(plan: Plan) -> Plan:
    place = distributed.placed(plan.config.device)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, device=place))


def _silent(message: str) -> None:
    """What the other devices have to say, the first one says."""


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


def _speed(plans: Sequence[Plan], pipelines: Pipelines, fresh: bool) -> None:
    # Times are comparable only when taken in turns, so one missing row means timing all of them again.
    wanted = [plan for plan in plans if plan.config.bench.repeats]
    if fresh or not all(finished.recorded(plan, "speed", plan.speed_id) for plan in wanted):
        speed.measure(wanted, pipelines)


def _grid(experiment: Experiment, plans: Sequence[Plan]) -> Path | None:
    rows = [(plan.row.label, quality.pictures(plan)) for plan in plans]
    seed = plans[0].config.seeds[0]
    samples = [sample for sample in plans[0].samples if sample.seed == seed][: grid.COLUMNS]
    if any(finished.unsound(folder, samples) for _, folder in rows):
        return None
    file = folders.outputs() / "grids" / f"{experiment.name}.png"
    grid.draw(rows, samples, file)
    return file
