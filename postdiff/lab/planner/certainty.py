"""How sure a comparison is: intervals by drawing the prompts anew, ties, and orders on few prompts against on all.

The same prompts are drawn for all settings, so that a hard prompt is hard for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Carry", "Interval", "carry", "difference", "elsewhere", "mean", "tied"]

RESAMPLES = 2000
BOUNDS = (2.5, 97.5)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies within."""
        return self.low <= value <= self.high


def _draws(size: int, of: int, seed: int = 0) -> NDArray[np.intp]:
    """Places of the prompts of each resample, (RESAMPLES, size)."""
    return np.random.default_rng(seed).integers(of, size=(RESAMPLES, size))


def _interval(value: float, drawn: Values) -> Interval:
    low, high = np.percentile(drawn, BOUNDS)
    return Interval(value, float(low), float(high))


def mean(values: Values) -> Interval:
    """Of the mean over prompts."""
    return _interval(float(values.mean()), values[_draws(len(values), len(values))].mean(1))


def difference(one: Values, other: Values) -> Interval:
    """Of the mean of `one` less that of `other`, on the same prompts."""
    return mean(one - other)


def elsewhere(values: Values, count: int) -> Interval:
    """Of the mean over as many other prompts of the same kind: the doubt about both means together."""
    here = values[_draws(len(values), len(values))].mean(1)
    there = values[_draws(count, len(values), seed=1)].mean(1)
    value = float(values.mean())
    return _interval(value, value + (there - here))


def tied(one: Values, other: Values) -> bool:
    """Whether these prompts do not tell which of two is better."""
    return difference(one, other).holds(0.0)


@dataclass(frozen=True)
class Carry:
    """How well an order of settings on few prompts agrees with that on all.

    Attributes:
        count: prompts of the small set.
        correlation: Spearman's rank correlation with the order on all, and the interval over small sets.
        alike: share of pairs among the first settings that stand in the same order.
    """

    count: int
    correlation: Interval
    alike: float


def carry(losses: Mapping[str, Values], counts: Sequence[int], leaders: int = 5) -> list[Carry]:
    """Orders on small sets, drawn with replacement from all prompts, against the order on all.

    Args:
        losses: {setting: loss of each prompt}, two settings at least.
        counts: sizes of small sets.
        leaders: pairs among so many first settings are looked at.
    """
    table = np.array(list(losses.values()))
    whole = table.mean(1)
    best = np.argsort(whole, kind="stable")[:leaders]
    pairs = list(combinations(best, 2))
    found = []
    for count in counts:
        drawn = table[:, _draws(count, table.shape[1])].mean(2)  # (settings, resamples)
        ranks = np.argsort(np.argsort(drawn, axis=0), axis=0).astype(float)
        own = np.argsort(np.argsort(whole)).astype(float)
        centred = ranks - ranks.mean(0)
        about = own - own.mean()
        correlations = (centred * about[:, None]).sum(0) / np.sqrt((centred**2).sum(0) * (about**2).sum())
        alike = np.mean([drawn[one] < drawn[other] for one, other in pairs])
        found.append(Carry(count, _interval(float(correlations.mean()), correlations), float(alike)))
    return found
