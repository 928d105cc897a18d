"""Metrics of pictures that are there already: no pipeline is loaded, nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable

from postdiff.engine.errors import UsageError
from postdiff.lab import progress, row
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.files import folders
from postdiff.lab.loggers import log
from postdiff.lab.metrics import measuring
from postdiff.lab.pipelines import random_weights
from postdiff.lab.plan import Plan, plan_rows
from postdiff.lab.records import recording
from postdiff.lab.records.record import Record

__all__ = ["score"]

Say = Callable[[str], None]


def score(experiment: Experiment, say: Say) -> list[Record]:
    """Measure the stored pictures of all rows, and write their records.

    What only a pipeline can tell (MACs, calls, scores of every step) stays as the row's last record has it. Missing
    pictures make the record a partial one.

    Args:
        experiment: the rows; their `metrics` say what is measured.
        say: told what is missing.

    Raises:
        UsageError: a mistake in the experiment, a row without any picture, or a picture that is damaged.
    """
    random_weights.refuse_pictures(experiment)
    folders.writable_outputs()
    plans = plan_rows(experiment)
    for plan in plans:
        _refuse_without_pictures(plan)
    rows, records = progress.Rows(len(plans)), []
    for plan in plans:
        with rows.row():
            records.append(_score(plan, say))
    return records


def _score(plan: Plan, say: Say) -> Record:
    started = recording.now()
    evaluation = quality.evaluated(plan, measuring.by_seed(plan.config, plan.card, plan.data_card))
    before = recording.last(plan)
    if before is None:
        say(f"{plan.name}: no record of these pictures, so none of their MACs; 'postdiff run' counts them")
    if plan.step_metric and not (before and before.curves):
        say(f"{plan.name}: step_scores=true needs the pipeline; 'postdiff run' scores every step")
    record = recording.quality(
        plan,
        started,
        evaluation.rows,
        evaluation.values,
        curves=before.curves if before and plan.step_metric else {},
        macs=before.macs if before else {},
        macs_spread=before.macs_spread if before else {},
        counts=before.counts if before else {},
    )
    if before is not None:
        record.device = before.device  # where the pictures were made
    recording.keep(record, evaluation.rows)
    own = quality.pictures(plan)
    own.list_in_manifest(evaluation.rows)
    log.finish(None, plan, own, record)
    if not record.full:
        missing = record.n_asked - record.n_done
        say(f"{plan.name}: {missing} of {record.n_asked} pictures are missing; 'postdiff run' makes them")
    return record


def _refuse_without_pictures(plan: Plan) -> None:
    own, run = quality.pictures(plan), f"'postdiff run {plan.experiment} --rows {plan.name}' with the same settings"
    if not any(map(own.has, plan.samples)):
        raise UsageError(f"row '{plan.name}': there are no pictures in {own.folder}; {run} makes them")
    if plan.paired and not any(map(quality.reference_pictures(plan).has, plan.samples)):
        raise UsageError(
            f"row '{plan.name}': paired metrics compare with a run of {plan.config.reference_steps} steps, which has no "
            f"pictures; {run} makes them, or name other metrics"
        )
