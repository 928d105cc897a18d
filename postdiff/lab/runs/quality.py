"""One row's pictures and numbers, as a record."""

from __future__ import annotations

from torchmetrics import Metric

from postdiff.lab import progress
from postdiff.lab.devices import distributed, trainer
from postdiff.lab.drawing.sampling import Pipelines, Sampler
from postdiff.lab.files import folders
from postdiff.lab.inputs.data import PromptDataModule, Sample, Shard, batch_name
from postdiff.lab.job import Job
from postdiff.lab.macs import work
from postdiff.lab.mirrors import mirror
from postdiff.lab.progress import PictureBar
from postdiff.lab.records import recording
from postdiff.lab.records.results import Record
from postdiff.lab.runs.evaluation import Evaluation
from postdiff.lab.runs.making import Say, make
from postdiff.lab.runs.step_scores import StepScores
from postdiff.lab.scores import measuring
from postdiff.lab.storage.pictures import PictureFolder
from postdiff.metrics.base import PerImageMetric

__all__ = ["evaluated", "measure", "pictures", "reference_pictures"]


def pictures(job: Job) -> PictureFolder:
    """Where a row's pictures are; rows of equal settings share them, in whatever experiment they stand."""
    return _folder(job, job.picture_id)


def reference_pictures(job: Job) -> PictureFolder:
    """Where the pictures are that paired metrics compare with."""
    return _folder(job, job.reference_id)


def _folder(job: Job, name: str) -> PictureFolder:
    drawn_in: dict[tuple[int, int], str] = {}
    for batch in job.batches:
        drawn_in |= dict.fromkeys(((sample.seed, sample.index) for sample in batch), batch_name(batch))
    return PictureFolder(folders.outputs() / "pictures" / name, job.config.store, drawn_in)


def measure(job: Job, pipelines: Pipelines, shard: Shard | None = None, say: Say = progress.tell) -> Record:
    """Make the pictures that are missing (of this shard), measure all there are, and write record and CSV.

    Raises:
        UsageError: the settings do not fit the model, or a picture holds NaN.
    """
    started = recording.now()
    # First of all: an encoder that does not fit must not be found out after an hour of drawing.
    by_seed = measuring.by_seed(job.config, job.card, job.data_card)
    # So must methods that do not fit each other, the network or the run: one picture tells before many are made.
    own, sampler = pictures(job), pipelines.sampler(job)
    spent = work.count(job, sampler)
    # Of a part there is nothing to tell yet; whoever finishes the record opens the mirror then.
    mirrors = mirror.start(job) if shard is None else None
    if job.paired:
        reference = job.reference()
        make(reference, lambda: pipelines.sampler(reference), reference_pictures(job), shard, say, job.name)
    make(job, lambda: sampler, own, shard, say, job.name)
    evaluation = evaluated(job, by_seed)
    # Every step is scored by the first device alone; the others go on to the next row and meet it there.
    scored = job.step_metric and shard is None and distributed.first()
    record = recording.quality(
        job,
        started,
        evaluation.rows,
        evaluation.values,
        curves=_step_scores(job, sampler, by_seed) if scored else {},
        macs=spent.macs,
        macs_spread=spent.spread,
        counts=spent.counts,
    )
    if distributed.first():
        recording.keep(record, evaluation.rows)
        own.list_in_manifest(evaluation.rows)
    mirror.finish(mirrors, job, own, record)
    return record


def evaluated(job: Job, by_seed: dict[int, dict[str, Metric]]) -> Evaluation:
    """Measure all pictures of a row that are there, and whose references are; needs no pipeline.

    Args:
        job: the row.
        by_seed: for each seed its own metrics, by name.

    Raises:
        UsageError: a picture is damaged.
    """
    own, references = pictures(job), reference_pictures(job) if job.paired else None
    present = {
        (sample.seed, sample.index)
        for sample in job.samples
        if own.has(sample) and (references is None or references.has(sample))
    }

    def wanted(sample: Sample) -> bool:
        return (sample.seed, sample.index) in present

    device = distributed.device()
    prompts = PromptDataModule(job.samples, job.config.batch_size, wanted=wanted, device=device)
    # A seed with fewer batches than devices would leave one without any, which metrics cannot join.
    batches = prompts.measured()
    shared = device.of > 1 and min(len(batches.get(seed, ())) for seed in job.config.seeds) >= device.of
    if not shared:
        prompts.device = Shard(1, 1)
    evaluation = Evaluation(own, None, references, by_seed, job.reference_id, shared)
    test = trainer.make(job.config.device, settings=job.config.trainer if device.of > 1 else None)
    trainer.passing_interrupts(test, lambda: test.test(evaluation, datamodule=prompts, verbose=False))
    return evaluation


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
