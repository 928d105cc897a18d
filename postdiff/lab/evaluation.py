"""The Lightning module of a row: `trainer.predict` generates its images, `trainer.test` measures them.

`evaluate` measures without a trainer, and shares the work with the other processes of the run.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torchmetrics import Metric, MetricCollection

from postdiff.lab.data.samples import Sample, Shard, measured_batches, measured_share
from postdiff.lab.devices import distributed
from postdiff.lab.generate.loop import generate_batch
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.images.marked_png import pixel_hash
from postdiff.lab.metrics import chosen, intervals
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import Value
from postdiff.lab.records.stored import images_of, references_of
from postdiff.metrics import names
from postdiff.metrics.base import PerImageMetric

__all__ = ["Evaluation", "evaluate"]


class Evaluation(LightningModule):
    """One row: generates the images that are missing, then measures all.

    Each seed has its own metrics, so that every value, also one that is no mean over images, has a spread.

    Args:
        plan: the row.
        metrics: for each seed, metrics by name; None means those that the plan asks for.
        sampler: generates images; not needed for testing.

    Attributes:
        images: where the images are kept.
        references: images of the reference run, if a metric needs them.
        shared: whether other processes measure the rest; otherwise this one is given all images.
        rows: after a test, one mapping an image for the CSV file; empty in all processes but rank 0.
        values: after a test, the metrics by name.

    Raises:
        UsageError: a file that a metric needs is missing or does not fit.
    """

    def __init__(
        self, plan: Plan, metrics: Mapping[int, Mapping[str, Metric]] | None = None, sampler: Sampler | None = None
    ) -> None:
        super().__init__()
        if metrics is None:
            metrics = chosen.by_seed(plan.config, plan.card, plan.data_card)
        self.images, self.references, self.references_id = images_of(plan), references_of(plan), plan.references_id
        self.sampler, self.shared = sampler, False
        # No compute groups: they would join metrics that only happen to agree on the first batch.
        self.by_seed = {seed: MetricCollection(dict(named), compute_groups=False) for seed, named in metrics.items()}
        for seed, collection in self.by_seed.items():
            self.add_module(f"seed_{seed}", collection)
        # A collection sorts its metrics by name; files keep the order of tables.
        self.names = [name for name in names() if any(name in own for own in metrics.values())]
        self.rows: list[dict[str, Any]] = []
        self.values: dict[str, Value] = {}

    def predict_step(self, batch: list[Sample], batch_idx: int = 0) -> int:
        """Generate a batch if some of its images are missing; returns how many were generated."""
        assert self.sampler is not None, "images are missing and there is no sampler"
        return generate_batch(batch, self.sampler, self.images)

    def on_test_start(self) -> None:
        """Forget what was measured before."""
        self.rows, self.values = [], {}
        for metrics in self.by_seed.values():
            for metric in metrics.values():
                metric.reset()
                metric.distributed_available_fn = lambda: self.shared

    def test_step(self, batch: list[Sample], batch_idx: int = 0) -> None:
        """Measure the images of a batch, all of one seed."""
        images, metrics = self.images.read(batch), self.by_seed[batch[0].seed]
        inputs: dict[str, Any] = {"images": images.to(self.device), "prompts": [sample.prompt for sample in batch]}
        if self.references is not None:
            inputs["references"] = self.references.read(batch).to(self.device)
        metrics.update(**inputs)
        named = {name: metrics[name] for name in self.names}
        single = {name: metric.last.tolist() for name, metric in named.items() if isinstance(metric, PerImageMetric)}
        for place, (sample, image) in enumerate(zip(batch, images, strict=True)):
            self.rows.append(
                {
                    "index": sample.index,
                    "prompt": sample.prompt,
                    "seed": sample.seed,
                    **({} if sample.own_seed is None else {"own_seed": sample.own_seed}),
                    **{name: values[place] for name, values in single.items()},
                    "sha256": pixel_hash(image),
                }
            )

    def on_test_epoch_end(self) -> None:
        """Hand the means to the trainer's loggers."""
        self.gather()
        # Lightning would average over devices what is the same on all.
        if distributed.share().of == 1:
            self.log_dict({name: value.value for name, value in self.values.items() if value.value is not None})

    def gather(self) -> None:
        """Make `values` and `rows` of what this process and the others have measured."""
        counts = {str(seed): sum(row["seed"] == seed for row in self.rows) for seed in self.by_seed}
        if self.shared:
            counts = distributed.all_sums(counts)
            places = {seed: place for place, seed in enumerate(self.by_seed)}
            rows = itertools.chain(*distributed.gather(self.rows))
            self.rows = sorted(rows, key=lambda row: (places[row["seed"]], row["index"]))
        first: Any = next(iter(self.by_seed.values()))
        for name in self.names:
            metric = first[name]
            # A Frechet distance needs two images; a part of a run may have seeds with fewer.
            measured = {seed: own[name] for seed, own in self.by_seed.items() if counts[str(seed)] >= metric.least}
            per_seed = {str(seed): float(own.compute()) for seed, own in measured.items()}
            with metric.sync_context():  # an identity may say how many images were seen
                identity = {**metric.identity(), "n_per_seed": max(counts.values(), default=0)}
            if name.startswith("paired_"):
                identity["reference"] = self.references_id
            found = list(per_seed.values())
            sound = bool(found) and all(math.isfinite(value) for value in found)
            self.values[name] = Value(
                value=statistics.fmean(found) if sound else None,
                spread=statistics.stdev(found) if sound and len(found) > 1 else None,
                per_seed=dict(per_seed),
                n=sum(counts.values()),
                higher_is_better=bool(metric.higher_is_better),
                identity=identity,
                interval=intervals.interval(name, measured, self.rows),
            )


def evaluate(plan: Plan, evaluation: Evaluation) -> Evaluation:
    """Measure all images of a row that are stored, and whose references are; needs no pipeline.

    Args:
        plan: the row.
        evaluation: its module, with its metrics.

    Raises:
        UsageError: an image is damaged.
    """
    folders = [folder for folder in (evaluation.images, evaluation.references) if folder is not None]
    there = [sample for sample in plan.samples if all(folder.has(sample) for folder in folders)]
    batches, share = measured_batches(there, plan.config.batch_size), distributed.share()
    # A seed with fewer batches than devices would leave one without any, which metrics cannot join.
    fewest = min(len(batches.get(seed, ())) for seed in plan.config.seeds)
    evaluation.shared = share.of > 1 and fewest >= share.of
    evaluation.to(plan.config.device).eval()
    evaluation.on_test_start()
    with torch.no_grad():
        for batch in measured_share(batches, share if evaluation.shared else Shard(1, 1)):
            evaluation.test_step(batch)
    evaluation.gather()
    return evaluation
