"""95 % intervals by drawing the images anew, with replacement, within each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torchmetrics import Metric

from postdiff.metrics.base import PerImageMetric

__all__ = ["interval"]

LEVEL = 95.0
CHUNK = 1 << 22  # values drawn at once, 32 MB


def interval(name: str, by_seed: Mapping[int, Metric], rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The interval of a metric's mean over seeds; None if none was asked for, or nothing was kept to draw from.

    Of a mean over images it is the percentiles of resampled means, from the values of the single images. A value
    of a whole set (`draws`) is biased by the repetitions in a resample, a Frechet distance upwards, so its percentiles
    are moved by the difference between the value and the resamples' mean.

    Args:
        name: of the metric.
        by_seed: it, after `compute`, for each seed that has enough images.
        rows: values of the single images, with the key `seed`.
    """
    resamples = min((int(getattr(metric, "resamples", 0)) for metric in by_seed.values()), default=0)
    if not resamples:
        return None
    if all(isinstance(metric, PerImageMetric) for metric in by_seed.values()):
        generator = np.random.default_rng(0)
        if not rows:
            return None  # in all but the first process of a run on several devices
        values = [np.array([row[name] for row in rows if row["seed"] == seed], dtype=float) for seed in by_seed]
        by_resample = []
        for own in values:
            at_once = max(1, CHUNK // len(own))
            sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
            means = [own[generator.integers(len(own), size=(size, len(own)))].mean(1) for size in sizes]
            by_resample.append(np.concatenate(means))
        draws = np.mean(by_resample, axis=0)
    else:
        found = [getattr(metric, "draws", []) for metric in by_seed.values()]
        if any(len(own) != resamples for own in found):
            return None
        draws = np.mean(found, axis=0)
        draws += np.mean([float(metric.compute()) for metric in by_seed.values()]) - draws.mean()
    low, high = (float(bound) for bound in np.percentile(draws, [50 - LEVEL / 2, 50 + LEVEL / 2]))
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None
