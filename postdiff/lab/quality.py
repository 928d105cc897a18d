"""One row's pictures and numbers, as a record."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from postdiff import metrics
from postdiff.cost.macs import count_macs
from postdiff.lab import folders, models, recording, results, trainer, wandb_run
from postdiff.lab.data import PromptDataModule, Shard
from postdiff.lab.evaluation import Evaluation
from postdiff.lab.job import Job
from postdiff.lab.pictures import PictureFolder
from postdiff.lab.progress import PictureBar
from postdiff.lab.results import Record
from postdiff.lab.sampling import Pipelines, Sampler
from postdiff.lab.step_scores import StepScores
from postdiff.metrics.base import PerImageMetric
from postdiff.metrics.encoder import DualEncoder
from postdiff.metrics.frechet import Statistics

__all__ = ["measure", "pictures", "reference_pictures"]


def pictures(job: Job) -> PictureFolder:
    """Where a row's pictures are; rows of equal settings share them, in whatever experiment they stand."""
    return PictureFolder(folders.outputs() / "pictures" / job.picture_id)


def reference_pictures(job: Job) -> PictureFolder:
    """Where the pictures are that paired metrics compare with."""
    return PictureFolder(folders.outputs() / "pictures" / job.reference_id)


def measure(job: Job, pipelines: Pipelines, shard: Shard | None = None) -> Record:
    """Make the pictures that are missing (of this shard), measure all there are, and write record and CSV.

    Raises:
        UsageError: the settings do not fit the model, or a picture holds NaN.
    """
    started = recording.now()
    # First of all: an encoder that does not fit must not be found out after an hour of drawing.
    by_seed = _metrics(job)
    # So must methods that do not fit each other, the network or the run: one picture tells before many are made.
    own, sampler = pictures(job), pipelines.sampler(job)
    counted = count_macs(sampler.pipe, lambda: sampler.call(job.samples[:1]))
    counts = {name: int(number) for name, number in sampler.fast.counts.items()}
    references = None
    if job.paired:
        references = reference_pictures(job)
        reference = job.reference()
        if not all(references.has(sample) for sample in reference.samples):
            _make(reference, pipelines.sampler(reference), references, shard)
    _make(job, sampler, own, shard)
    evaluation = Evaluation(own, None, references, by_seed, job.reference_id)
    _test(job, evaluation, own, references)
    curves = _step_scores(job, sampler, by_seed) if job.step_metric and shard is None else {}
    record = recording.record(
        job,
        kind="quality",
        run_id=job.run_id,
        started=started,
        pictures=job.picture_id,
        references=job.reference_id if job.paired else None,
        n_asked=len(job.samples),
        n_done=len(evaluation.rows),
        metrics=evaluation.values,
        curves=curves,
        macs={part: dict(by_convention) for part, by_convention in counted.items()},
        counts=counts,
    )
    file = results.fresh_path(job.experiment, job.name)
    if not _already_full(file, record):
        _write_csv(file.with_suffix(".csv"), evaluation.rows)
        record.write(file)
    return record


def _make(job: Job, sampler: Sampler, folder: PictureFolder, shard: Shard | None) -> None:
    prompts = PromptDataModule(job.samples, job.config.batch_size, shard)
    asked = sum(len(batch) for batch in prompts.predict_dataloader())
    title = job.row.label + (f" (part {shard.number} of {shard.of})" if shard else "")
    predict = trainer.make(job.config.device, [PictureBar(title, asked)])
    module = Evaluation(folder, sampler)
    trainer.passing_interrupts(predict, lambda: predict.predict(module, datamodule=prompts, return_predictions=False))


def _test(job: Job, evaluation: Evaluation, own: PictureFolder, references: PictureFolder | None) -> None:
    prompts = PromptDataModule(
        job.samples,
        job.config.batch_size,
        wanted=lambda sample: own.has(sample) and (references is None or references.has(sample)),
    )
    logger = wandb_run.start(job)
    test = trainer.make(job.config.device, logger=logger)
    trainer.passing_interrupts(test, lambda: test.test(evaluation, datamodule=prompts, verbose=False))
    wandb_run.finish(logger, job, own)


def _step_scores(
    job: Job, sampler: Sampler, by_seed: dict[int, dict[str, Metric]]
) -> dict[str, dict[str, list[float]]]:
    assert job.step_metric is not None
    metric = next(iter(by_seed.values()))[job.step_metric]
    assert isinstance(metric, PerImageMetric)
    predict = trainer.make(job.config.device, [PictureBar(f"{job.row.label}, every step", len(job.samples))])
    module = StepScores(sampler, metric)
    prompts = PromptDataModule(job.samples, job.config.batch_size)
    trainer.passing_interrupts(predict, lambda: predict.predict(module, datamodule=prompts, return_predictions=False))
    return {job.step_metric: module.curve()}


def _metrics(job: Job) -> dict[int, dict[str, Metric]]:
    """For each seed its own metrics around one shared encoder."""
    infos = {name: metrics.find(name) for name in job.metrics}
    given: dict[str, Any] = {}
    if job.card.dual_encoder is not None:
        given["encoder"] = _encoder(models.package_file(job.card.dual_encoder))
    if any("statistics" in info.needs for info in infos.values()):
        given["statistics"] = Statistics.load(models.package_file(str(job.data_card.reference_statistics)))
    return {
        seed: {
            name: info.load()(**{need: given[need] for need in info.needs if need in given})
            for name, info in infos.items()
        }
        for seed in job.config.seeds
    }


@functools.lru_cache(maxsize=1)
def _encoder(folder: Path) -> DualEncoder:
    return DualEncoder.load(folder)


def _already_full(file: Path, record: Record) -> bool:
    """Whether another part of the same run has finished the record in the meantime."""
    if record.full or not file.is_file():
        return False
    present = Record.read(file)
    return present.full and present.run_id == record.run_id


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    with folders.whole_file(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["index", "prompt", "seed"])
        writer.writeheader()
        writer.writerows(rows)
