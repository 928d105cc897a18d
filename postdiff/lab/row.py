"""One row from start to end: its images, its numbers, its record."""

from __future__ import annotations

from postdiff.engine.errors import UsageError
from postdiff.lab import progress
from postdiff.lab.data.samples import Shard
from postdiff.lab.devices import distributed
from postdiff.lab.evaluation import Evaluation, evaluate
from postdiff.lab.generate.loop import Report, generate
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.loggers import log
from postdiff.lab.macs import row_macs
from postdiff.lab.metrics import chosen
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records import stored
from postdiff.lab.records.record import Record
from postdiff.lab.records.stored import images_of, references_of
from postdiff.lab.step_scores import step_scores

__all__ = ["measure", "refuse_without_images", "score"]


def measure(plan: Plan, pipelines: Pipelines, shard: Shard | None = None, report: Report = progress.report) -> Record:
    """Generate the images that are missing (of this shard), measure all there are, and write record and CSV file.

    Raises:
        UsageError: the settings do not fit the model, or an image holds NaN.
    """
    started = stored.now()
    # First of all: an encoder that does not fit must not be found out after an hour of sampling.
    metrics = chosen.by_seed(plan.config, plan.card, plan.data_card)
    # So must methods that do not fit each other, the network or the run: one image shows it before many are made.
    images, references, sampler = images_of(plan), references_of(plan), pipelines.sampler(plan)
    spent = row_macs.count(plan, sampler)
    # Of a part there is nothing to log yet; whoever finishes the record opens the loggers then.
    loggers = log.start(plan) if shard is None else None
    if references is not None:
        reference = plan.reference()
        generate(reference, lambda: pipelines.sampler(reference), references, shard, report, plan.name)
    generate(plan, lambda: sampler, images, shard, report, plan.name)
    found = evaluate(plan, Evaluation(plan, metrics))
    # Every step is scored by rank 0 alone; the others go on to the next row and meet it there.
    scored = plan.step_metric and shard is None and distributed.is_rank_zero()
    record = stored.fill(
        plan,
        "quality",
        started,
        n_done=len(found.rows),
        metrics=found.values,
        curves=step_scores(plan, sampler, metrics) if scored else {},
        macs=spent.macs,
        macs_spread=spent.spread,
        counts=spent.counts,
    )
    if distributed.is_rank_zero():
        stored.keep(record, found.rows)
        images.list_in_manifest(found.rows)
    log.finish(loggers, plan, record)
    return record


def score(plan: Plan, report: Report) -> Record:
    """Measure the stored images of a row: no pipeline is loaded, nothing is generated.

    What only a pipeline can know (MACs, calls, scores of every step) stays as the row's last record has it. Missing
    images make the record a partial one.

    Args:
        plan: the row; its `metrics` say what is measured.
        report: given what is missing.

    Raises:
        UsageError: an image is damaged.
    """
    started, images = stored.now(), images_of(plan)
    found = evaluate(plan, Evaluation(plan, chosen.by_seed(plan.config, plan.card, plan.data_card)))
    before = stored.last(plan)
    if before is None:
        report(f"{plan.name}: no record of these images, so none of their MACs; 'postdiff run' counts them")
    if plan.step_metric and not (before and before.curves):
        report(f"{plan.name}: step_scores=true needs the pipeline; 'postdiff run' scores every step")
    record = stored.fill(plan, "quality", started, n_done=len(found.rows), metrics=found.values)
    if before is not None:
        record.macs, record.macs_spread, record.counts = before.macs, before.macs_spread, before.counts
        record.curves = before.curves if plan.step_metric else {}
        record.device = before.device  # where the images were generated
    stored.keep(record, found.rows)
    images.list_in_manifest(found.rows)
    log.finish(None, plan, record)
    if not record.full:
        missing = record.n_asked - record.n_done
        report(f"{plan.name}: {missing} of {record.n_asked} images are missing; 'postdiff run' makes them")
    return record


def refuse_without_images(plan: Plan) -> None:
    """Refuse to score a row that has none.

    Raises:
        UsageError: no image of the row or of its reference is stored.
    """
    images, references = images_of(plan), references_of(plan)
    run = f"'postdiff run {plan.experiment} --rows {plan.name}' with the same settings"
    if not any(map(images.has, plan.samples)):
        raise UsageError(f"row '{plan.name}': there are no images in {images.folder}; {run} makes them")
    if references is not None and not any(map(references.has, plan.samples)):
        raise UsageError(
            f"row '{plan.name}': paired metrics compare with a run of {plan.config.reference_steps} steps, which has "
            f"no images; {run} makes them, or name other metrics"
        )
