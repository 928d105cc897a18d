"""The Lightning module of a row: `trainer.predict` generates its images, `trainer.test` measures them.

`evaluate` measures without a trainer, and shares the work with the other processes of the run.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric, MetricCollection

from postdiff.lab.data.samples import Sample, Shard, measured_batches, measured_share
from postdiff.lab.devices import distributed
from postdiff.lab.generate.loop import generate_batch
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.images.image_folder import ImageFolder
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
        images: where the images are kept.
        sampler: generates images; not needed for testing.
        references: images of the reference run, if a metric needs them.
        metrics: for each seed, metrics by name.
        references_id: names the reference run in the identity of paired metrics.
        shared: whether other processes measure the rest; otherwise this one is given all images.

    Attributes:
        rows: after a test, one mapping an image for the CSV file; empty in all processes but rank 0.
        values: after a test, the metrics by name.
    """

    def __init__(
        self,
        images: ImageFolder,
        sampler: Sampler | None = None,
        references: ImageFolder | None = None,
        metrics: Mapping[int, Mapping[str, Metric]] | None = None,
        references_id: str | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.images, self.sampler, self.references, self.references_id = images, sampler, references, references_id
        self.shared = shared
        # No compute groups: they would join metrics that only happen to agree on the first batch.
        self.by_seed = nn.ModuleDict(
            {str(seed): MetricCollection(dict(named), compute_groups=False) for seed, named in (metrics or {}).items()}
        )
        # A collection sorts its metrics by name; files keep the order of tables.
        self.names = [name for name in names() if any(name in own for own in (metrics or {}).values())]
        self.rows: list[dict[str, Any]] = []
        self.values: dict[str, Value] = {}

    @classmethod
    def of(
        cls, plan: Plan, metrics: Mapping[int, Mapping[str, Metric]] | None = None, sampler: Sampler | None = None
    ) -> Evaluation:
        """The module of a row.

        Args:
            plan: the row.
            metrics: for each seed, metrics by name; None means those that the plan asks for.
            sampler: generates images; not needed for testing.

        Raises:
            UsageError: a file that a metric needs is missing or does not fit.
        """
        if metrics is None:
            metrics = chosen.by_seed(plan.config, plan.card, plan.data_card)
        return cls(images_of(plan), sampler, references_of(plan), metrics, plan.references_id)

    def predict_step(self, batch: list[Sample], batch_idx: int = 0) -> int:
        """Generate a batch if some of its images are missing; returns how many were generated."""
        assert self.sampler is not None, "images are missing and there is no sampler"
        return generate_batch(batch, self.sampler, self.images)

    def on_test_start(self) -> None:
        """Forget what was measured before."""
        self.rows, self.values = [], {}
        for seed in self.by_seed:
            for metric in self._metrics(seed).values():
                metric.reset()
                metric.distributed_available_fn = lambda: self.shared

    def test_step(self, batch: list[Sample], batch_idx: int = 0) -> None:
        """Measure the images of a batch, all of one seed."""
        images, metrics = self.images.read(batch), self._metrics(batch[0].seed)
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
        counts = {seed: sum(row["seed"] == int(seed) for row in self.rows) for seed in self.by_seed}
        if self.shared:
            counts = distributed.all_sums(counts)
            self.rows = self._in_order(itertools.chain(*distributed.gather(self.rows)))
        total = sum(counts.values())
        first = self._metrics(next(iter(self.by_seed)))
        for name in self.names:
            metric = first[name]
            # A Frechet distance needs two images; a part of a run may have seeds with fewer.
            least = int(metric.least)  # type: ignore[arg-type]
            per_seed = {
                seed: float(self._metrics(seed)[name].compute()) for seed, count in counts.items() if count >= least
            }
            with metric.sync_context():  # an identity may say how many images were seen
                identity = {**metric.identity(), "n_per_seed": max(counts.values(), default=0)}  # type: ignore[operator]
            if name.startswith("paired_"):
                identity["reference"] = self.references_id
            self.values[name] = _value(per_seed, total, bool(metric.higher_is_better), identity)
            measured = {int(seed): self._metrics(seed)[name] for seed in per_seed}
            self.values[name].interval = intervals.interval(name, measured, self.rows)

    def _in_order(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        places = {int(seed): place for place, seed in enumerate(self.by_seed)}
        return sorted(rows, key=lambda row: (places[row["seed"]], row["index"]))

    def _metrics(self, seed: int | str) -> MetricCollection:
        found = self.by_seed[str(seed)]
        assert isinstance(found, MetricCollection)
        return found


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


def _value(per_seed: dict[str, float], n: int, higher_is_better: bool, identity: dict[str, Any]) -> Value:
    values = list(per_seed.values())
    sound = bool(values) and all(math.isfinite(value) for value in values)
    return Value(
        value=statistics.fmean(values) if sound else None,
        spread=statistics.stdev(values) if sound and len(values) > 1 else None,
        per_seed=dict(per_seed),
        n=n,
        higher_is_better=higher_is_better,
        identity=identity,
    )
