"""The Lightning module: `trainer.predict` makes pictures, `trainer.test` makes numbers."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric, MetricCollection

from postdiff.lab.devices import distributed
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.images.marked_png import pixel_hash
from postdiff.lab.metrics import intervals
from postdiff.lab.records.record import Value
from postdiff.lab.samples import Sample
from postdiff.lab.sampling.sampler import Sampler
from postdiff.metrics import METRICS
from postdiff.metrics.base import PerImageMetric

__all__ = ["Evaluation"]


class Evaluation(LightningModule):
    """One row: makes the pictures that are missing, then measures all.

    Each seed has its own metrics, so that every figure, also one that is no mean over pictures, has a spread.

    Args:
        pictures: where the pictures are kept.
        sampler: makes pictures; not needed for testing.
        references: pictures of the reference run, if a metric needs them.
        metrics: for each seed, metrics by name.
        references_id: names the reference run in the identity of paired metrics.
        shared: whether other processes measure the rest; otherwise this one is given all pictures.

    Attributes:
        rows: after a test, one mapping a picture for the CSV file; empty in all but the first process.
        values: after a test, the metrics by name.
    """

    def __init__(
        self,
        pictures: ImageFolder,
        sampler: Sampler | None = None,
        references: ImageFolder | None = None,
        metrics: Mapping[int, Mapping[str, Metric]] | None = None,
        references_id: str | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.pictures, self.sampler, self.references, self.references_id = pictures, sampler, references, references_id
        self.shared = shared
        # No compute groups: they would join metrics that only happen to agree on the first batch.
        self.by_seed = nn.ModuleDict(
            {str(seed): MetricCollection(dict(named), compute_groups=False) for seed, named in (metrics or {}).items()}
        )
        self.rows: list[dict[str, Any]] = []
        self.values: dict[str, Value] = {}

    def predict_step(self, batch: list[Sample], batch_idx: int = 0) -> int:
        """Draw a batch if some of its pictures are not there yet, and keep those; returns how many were drawn.

        The whole batch is drawn, since a picture drawn with fewer others would differ in its last bits.
        """
        missing = [place for place, sample in enumerate(batch) if not self.pictures.has(sample)]
        if not missing:
            return 0
        assert self.sampler is not None, "pictures are missing and there is no sampler"
        drawn = self.sampler(batch)
        self.pictures.write([batch[place] for place in missing], drawn[missing])
        return len(batch)

    def on_test_start(self) -> None:
        self.rows, self.values = [], {}
        for seed in self.by_seed:
            for metric in self._metrics(seed).values():
                metric.reset()
                metric.distributed_available_fn = lambda: self.shared

    def test_step(self, batch: list[Sample], batch_idx: int = 0) -> None:
        """Measure the pictures of a batch, all of one seed."""
        self._measure(batch, self._metrics(batch[0].seed))

    def _measure(self, samples: Sequence[Sample], metrics: MetricCollection) -> None:
        images = self.pictures.read(samples)
        given: dict[str, Any] = {
            "images": images.to(self.device),
            "prompts": [sample.prompt for sample in samples],
        }
        if self.references is not None:
            given["references"] = self.references.read(samples).to(self.device)
        metrics.update(**given)
        # A collection sorts its metrics by name; files keep the order of the table of metrics.
        named = {name: metrics[name] for name in METRICS if name in metrics}
        single = {name: metric.last.tolist() for name, metric in named.items() if isinstance(metric, PerImageMetric)}
        for place, (sample, image) in enumerate(zip(samples, images, strict=True)):
            self.rows.append(
                {
                    "index": sample.index,
                    "prompt": sample.prompt,
                    "seed": sample.seed,
                    **({} if sample.own_seed is None else {"own_seed": sample.own_seed}),
                    **{name: figures[place] for name, figures in single.items()},
                    "sha256": pixel_hash(image),
                }
            )

    def on_test_epoch_end(self) -> None:
        """Gather the seeds' values and hand the means to the loggers."""
        counts = {seed: sum(row["seed"] == int(seed) for row in self.rows) for seed in self.by_seed}
        if self.shared:
            counts = distributed.joined(counts)
            self.rows = self._in_order(itertools.chain(*distributed.gathered(self.rows)))
        total = sum(counts.values())
        first = self._metrics(next(iter(self.by_seed)))
        for name in (known for known in METRICS if known in first):
            metric = first[name]
            # A Frechet distance needs two pictures; a part of a run may have seeds with fewer.
            least = METRICS[name].least
            per_seed = {
                seed: float(self._metrics(seed)[name].compute()) for seed, count in counts.items() if count >= least
            }
            with metric.sync_context():  # an identity may tell how many pictures were seen
                identity = {**metric.identity(), "n_per_seed": max(counts.values(), default=0)}  # type: ignore[operator]
            if name.startswith("paired_"):
                identity["reference"] = self.references_id
            self.values[name] = _value(per_seed, total, bool(metric.higher_is_better), identity)
            measured = {int(seed): self._metrics(seed)[name] for seed in per_seed}
            self.values[name].interval = intervals.interval(name, measured, self.rows)
        figures = {name: value.value for name, value in self.values.items() if value.value is not None}
        if distributed.share().of == 1:  # Lightning would average over devices what is the same on all
            self.log_dict(figures)

    def _in_order(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        places = {int(seed): place for place, seed in enumerate(self.by_seed)}
        return sorted(rows, key=lambda row: (places[row["seed"]], row["index"]))

    def _metrics(self, seed: int | str) -> MetricCollection:
        found = self.by_seed[str(seed)]
        assert isinstance(found, MetricCollection)
        return found


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
