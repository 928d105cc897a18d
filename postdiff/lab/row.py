"""One row's pictures and numbers, as a record."""

from __future__ import annotations

from torchmetrics import Metric

from postdiff.lab import progress
from postdiff.lab.devices import distributed, trainer
from postdiff.lab.evaluation import Evaluation
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.loggers import log
from postdiff.lab.macs import row_macs
from postdiff.lab.metrics import measuring
from postdiff.lab.plan import Plan
from postdiff.lab.progress import PictureBar
from postdiff.lab.records import recording
from postdiff.lab.records.record import Record
from postdiff.lab.runs.making import Say, make
from postdiff.lab.samples import PromptDataModule, Sample, Shard, batch_name
from postdiff.lab.sampling.pipelines import Pipelines, Sampler
from postdiff.lab.step_scores import StepScores
from postdiff.metrics.base import PerImageMetric

__all__ = ["evaluated", "measure", "pictures", "reference_pictures"]


def pictures(plan: Plan) -> ImageFolder:
    """Where a row's pictures are; rows of equal settings share them, in whatever experiment they stand."""
    return _folder(plan, plan.images_id)


def reference_pictures(plan: Plan) -> ImageFolder:
    """Where the pictures are that paired metrics compare with."""
    return _folder(plan, plan.references_id)


def _folder(plan: Plan, name: str) -> ImageFolder:
    drawn_in: dict[tuple[int, int], str] = {}
    for batch in plan.batches:
        drawn_in |= dict.fromkeys(((sample.seed, sample.index) for sample in batch), batch_name(batch))
    return ImageFolder(folders.outputs() / "pictures" / name, plan.config.store, drawn_in)


def measure(plan: Plan, pipelines: Pipelines, shard: Shard | None = None, say: Say = progress.tell) -> Record:
    """Make the pictures that are missing (of this shard), measure all there are, and write record and CSV.

    Raises:
        UsageError: the settings do not fit the model, or a picture holds NaN.
    """
    started = recording.now()
    # First of all: an encoder that does not fit must not be found out after an hour of drawing.
    by_seed = measuring.by_seed(plan.config, plan.card, plan.data_card)
    # So must methods that do not fit each other, the network or the run: one picture tells before many are made.
    own, sampler = pictures(plan), pipelines.sampler(plan)
    spent = row_macs.count(plan, sampler)
    # Of a part there is nothing to tell yet; whoever finishes the record opens the loggers then.
    loggers = log.start(plan) if shard is None else None
    if plan.paired:
        reference = plan.reference()
        make(reference, lambda: pipelines.sampler(reference), reference_pictures(plan), shard, say, plan.name)
    make(plan, lambda: sampler, own, shard, say, plan.name)
    evaluation = evaluated(plan, by_seed)
    # Every step is scored by the first device alone; the others go on to the next row and meet it there.
    scored = plan.step_metric and shard is None and distributed.is_rank_zero()
    record = recording.quality(
        plan,
        started,
        evaluation.rows,
        evaluation.values,
        curves=_step_scores(plan, sampler, by_seed) if scored else {},
        macs=spent.macs,
        macs_spread=spent.spread,
        counts=spent.counts,
    )
    if distributed.is_rank_zero():
        recording.keep(record, evaluation.rows)
        own.list_in_manifest(evaluation.rows)
    log.finish(loggers, plan, own, record)
    return record


def evaluated(plan: Plan, by_seed: dict[int, dict[str, Metric]]) -> Evaluation:
    """Measure all pictures of a row that are there, and whose references are; needs no pipeline.

    Args:
        plan: the row.
        by_seed: for each seed its own metrics, by name.

    Raises:
        UsageError: a picture is damaged.
    """
    own, references = pictures(plan), reference_pictures(plan) if plan.paired else None
    present = {
        (sample.seed, sample.index)
        for sample in plan.samples
        if own.has(sample) and (references is None or references.has(sample))
    }

    def wanted(sample: Sample) -> bool:
        return (sample.seed, sample.index) in present

    device = distributed.share()
    prompts = PromptDataModule(plan.samples, plan.config.batch_size, wanted=wanted, device=device)
    # A seed with fewer batches than devices would leave one without any, which metrics cannot join.
    batches = prompts.measured()
    shared = device.of > 1 and min(len(batches.get(seed, ())) for seed in plan.config.seeds) >= device.of
    if not shared:
        prompts.device = Shard(1, 1)
    evaluation = Evaluation(own, None, references, by_seed, plan.references_id, shared)
    test = trainer.make(plan.config.device, settings=plan.config.trainer if device.of > 1 else None)
    trainer.passing_interrupts(test, lambda: test.test(evaluation, datamodule=prompts, verbose=False))
    return evaluation


def _step_scores(
    plan: Plan, sampler: Sampler, by_seed: dict[int, dict[str, Metric]]
) -> dict[str, dict[str, list[float]]]:
    assert plan.step_metric is not None
    metric = next(iter(by_seed.values()))[plan.step_metric]
    assert isinstance(metric, PerImageMetric)
    predict = trainer.make(plan.config.device, [PictureBar(f"{plan.row.label}, every step", len(plan.samples))])
    module = StepScores(sampler, metric)
    prompts = PromptDataModule(plan.samples, plan.config.batch_size)
    trainer.passing_interrupts(predict, lambda: predict.predict(module, datamodule=prompts, return_predictions=False))
    return {plan.step_metric: module.curve()}
