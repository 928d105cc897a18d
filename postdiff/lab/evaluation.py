"""The Lightning module: `trainer.predict` makes pictures, `trainer.test` makes numbers."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from postdiff.lab.data import Sample
from postdiff.lab.pictures import PictureFolder
from postdiff.lab.results import Value
from postdiff.lab.sampling import Sampler
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
        reference_id: names the reference run in the identity of paired metrics.

    Attributes:
        rows: after a test, one mapping a picture for the CSV file.
        values: after a test, the metrics by name.
    """

    def __init__(
        self,
        pictures: PictureFolder,
        sampler: Sampler | None = None,
        references: PictureFolder | None = None,
        metrics: Mapping[int, Mapping[str, Metric]] | None = None,
        reference_id: str | None = None,
    ) -> None:
        super().__init__()
        self.pictures, self.sampler, self.references, self.reference_id = pictures, sampler, references, reference_id
        # No compute groups: they would join metrics that only happen to agree on the first batch.
        self.by_seed = nn.ModuleDict(
            {str(seed): MetricCollection(dict(named), compute_groups=False) for seed, named in (metrics or {}).items()}
        )
        self.rows: list[dict[str, Any]] = []
        self.values: dict[str, Value] = {}

    def predict_step(self, batch: list[Sample], batch_idx: int = 0) -> int:
        """Make and keep the pictures of a batch that are not there yet; returns how many those were."""
        missing = [sample for sample in batch if not self.pictures.has(sample)]
        if missing:
            assert self.sampler is not None, "pictures are missing and there is no sampler"
            self.pictures.write(missing, self.sampler(missing))
        return len(missing)

    def on_test_start(self) -> None:
        self.rows, self.values = [], {}
        for metrics in self.by_seed.values():
            metrics.reset()  # type: ignore[operator]

    def test_step(self, batch: list[Sample], batch_idx: int = 0) -> None:
        """Measure the pictures of a batch, seed by seed."""
        for seed in sorted({sample.seed for sample in batch}):
            self._measure([sample for sample in batch if sample.seed == seed], self._metrics(seed))

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
                    **{name: figures[place] for name, figures in single.items()},
                    "sha256": _pixel_hash(image),
                }
            )

    def on_test_epoch_end(self) -> None:
        """Gather the seeds' values and hand the means to the loggers."""
        counts = {seed: sum(row["seed"] == int(seed) for row in self.rows) for seed in self.by_seed}
        first = self._metrics(next(iter(self.by_seed)))
        for name in (known for known in METRICS if known in first):
            metric = first[name]
            # A Frechet distance needs two pictures; a part of a run may have seeds with fewer.
            least = 1 if isinstance(metric, PerImageMetric) else 2
            per_seed = {
                seed: float(self._metrics(seed)[name].compute()) for seed, count in counts.items() if count >= least
            }
            identity = {**metric.identity(), "n_per_seed": max(counts.values(), default=0)}  # type: ignore[operator]
            if name.startswith("paired_"):
                identity["reference"] = self.reference_id
            self.values[name] = _value(per_seed, len(self.rows), bool(metric.higher_is_better), identity)
        self.log_dict({name: value.value for name, value in self.values.items() if value.value is not None})

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
        per_seed=per_seed,
        n=n,
        higher_is_better=higher_is_better,
        identity=identity,
    )


def _pixel_hash(image: Tensor) -> str:
    assert image.dtype == torch.uint8
    return hashlib.sha256(image.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()
