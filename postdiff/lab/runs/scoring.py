"""Metrics of pictures that are there already: no pipeline is loaded, nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable

from postdiff.engine.errors import UsageError
from postdiff.lab import progress
from postdiff.lab.files import folders
from postdiff.lab.job import Job, prepare
from postdiff.lab.mirrors import mirror
from postdiff.lab.pipelines import random_weights
from postdiff.lab.records import recording
from postdiff.lab.records.results import Record
from postdiff.lab.runs import quality
from postdiff.lab.scores import measuring
from postdiff.lab.settings.experiment import Experiment

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
    jobs = prepare(experiment)
    for job in jobs:
        _refuse_without_pictures(job)
    rows, records = progress.Rows(len(jobs)), []
    for job in jobs:
        with rows.row():
            records.append(_score(job, say))
    return records


def _score(job: Job, say: Say) -> Record:
    started = recording.now()
    evaluation = quality.evaluated(job, measuring.by_seed(job.config, job.card, job.data_card))
    before = recording.last(job)
    if before is None:
        say(f"{job.name}: no record of these pictures, so none of their MACs; 'postdiff run' counts them")
    if job.step_metric and not (before and before.curves):
        say(f"{job.name}: step_scores=true needs the pipeline; 'postdiff run' scores every step")
    record = recording.quality(
        job,
        started,
        evaluation.rows,
        evaluation.values,
        curves=before.curves if before and job.step_metric else {},
        macs=before.macs if before else {},
        macs_spread=before.macs_spread if before else {},
        counts=before.counts if before else {},
    )
    if before is not None:
        record.device = before.device  # where the pictures were made
    recording.keep(record, evaluation.rows)
    own = quality.pictures(job)
    own.list_in_manifest(evaluation.rows)
    mirror.finish(None, job, own, record)
    if not record.full:
        missing = record.n_asked - record.n_done
        say(f"{job.name}: {missing} of {record.n_asked} pictures are missing; 'postdiff run' makes them")
    return record


def _refuse_without_pictures(job: Job) -> None:
    own, run = quality.pictures(job), f"'postdiff run {job.experiment} --rows {job.name}' with the same settings"
    if not any(map(own.has, job.samples)):
        raise UsageError(f"row '{job.name}': there are no pictures in {own.folder}; {run} makes them")
    if job.paired and not any(map(quality.reference_pictures(job).has, job.samples)):
        raise UsageError(
            f"row '{job.name}': paired metrics compare with a run of {job.config.reference_steps} steps, which has no "
            f"pictures; {run} makes them, or name other metrics"
        )
