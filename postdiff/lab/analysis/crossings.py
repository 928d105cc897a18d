"""Fewer steps or cheaper steps: where the curve of one crosses that of the other, over what an image costs.

A family of settings is as good, at a budget, as the best of its settings that keep to it: its front. Between settings
of a front quality is taken to be straight over the logarithm of the cost, and beyond the last one it stays. Quality is
a score, or less the logarithm of a distance, which falls by factors. Two fronts are compared where both have settings.

Intervals are from drawing the prompts anew, the same ones for all settings, each with all of its seeds. Everything is
computed anew then, the fronts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "Crossing", "Gain", "Settings", "compare", "crossings", "drawn", "front", "spread"]

BOUNDS = (2.5, 97.5)
LEAST = 1e-9  # a distance, so that it has a logarithm
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """A family.

    Attributes:
        costs: (N,), of an image, above 0.
        values: (N, P), a score or a distance for each prompt.
    """

    costs: Floats
    values: Floats

    def quality(self, weights: Floats, distance: bool) -> Floats:
        """Of means over prompts with the weights (P,) or (P, resamples): (N,) or (N, resamples); more is better."""
        means = self.values @ weights
        return -np.log(np.maximum(means, LEAST)) if distance else means


@dataclass(frozen=True)
class Crossing:
    """A budget at which two fronts are as good.

    Attributes:
        cost: there.
        low: lower bound of its 95 % interval.
        high: upper bound.
        below: whether the second front is the better one at smaller costs, and the first one at larger ones.
        found: share of the resamples that have such a crossing; the interval is of these.
    """

    cost: float
    low: float
    high: float
    below: bool
    found: float


@dataclass(frozen=True)
class Gain:
    """How far the second front is ahead at a budget, with the bounds of the 95 % interval.

    Of scores it is the difference; of distances how many times smaller the second one is.
    """

    cost: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two fronts.

    Attributes:
        least: cost from which on both have settings; the second family's own where they have no stretch in common.
        most: cost up to which both do; likewise.
        ahead: share of that stretch, in the logarithm of the cost, in which the second front is ahead.
        crossings: by rising cost; empty if one is ahead throughout, or if they have no stretch in common.
        gains: at the costs that were asked for and lie within.
    """

    least: float
    most: float
    ahead: float
    crossings: Sequence[Crossing]
    gains: Sequence[Gain]


def front(costs: Floats, means: Floats) -> NDArray[np.intp]:
    """Places of the settings that no other one beats at the same or a smaller cost, by rising cost; more is better."""
    order = np.lexsort((-means, costs))
    best = np.maximum.accumulate(means[order])
    return order[np.concatenate(([True], best[1:] > best[:-1]))]


def crossings(
    one: tuple[Floats, Floats], other: tuple[Floats, Floats]
) -> tuple[list[tuple[float, bool]], tuple[Floats, Floats]]:
    """Where two families' fronts cross.

    Args:
        one: costs and mean qualities of its settings.
        other: the same of another family.

    Returns:
        Costs, each with whether `other` is ahead below it, rising; and how far `other` is ahead, as logarithms of
        costs and differences, straight between them. All of it is empty without a stretch of two costs in common.
    """
    least, most = max(one[0].min(), other[0].min()), min(one[0].max(), other[0].max())
    if least >= most:
        return [], (np.empty(0), np.empty(0))
    fronts = [(np.log(costs[own]), means[own]) for costs, means in (one, other) for own in [front(costs, means)]]
    ends = np.log([least, most])
    knots = np.concatenate([ends, *(at[(at > ends[0]) & (at < ends[1])] for at, _ in fronts)])
    knots = np.unique(knots)
    ahead = np.interp(knots, *fronts[1]) - np.interp(knots, *fronts[0])
    found, last = [], 0  # the last place where they differ
    for place in range(1, len(knots)):
        if ahead[place] == 0:
            continue
        if ahead[last] * ahead[place] < 0:
            left, right = ahead[place - 1], ahead[place]
            at = knots[place - 1] + left / (left - right) * (knots[place] - knots[place - 1])
            found.append((float(np.exp(at)), bool(ahead[last] > 0)))
        last = place
    return found, (knots, ahead)


def drawn(prompts: int, resamples: int, seed: int = 0) -> Floats:
    """(P, resamples), the weight of each prompt in the mean of each resample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(prompts, np.full(prompts, 1 / prompts), resamples).T / prompts


def spread(values: Floats, weights: Floats) -> tuple[float, float]:
    """The 95 % interval of the mean of (P,) values."""
    low, high = np.percentile(values @ weights, BOUNDS)
    return float(low), float(high)


def compare(
    one: Settings, other: Settings, weights: Floats, costs: Sequence[float] = (), *, distance: bool = False
) -> Comparison:
    """How a family stands to another, on the same prompts.

    Args:
        one: what is compared with, fewer steps.
        other: another family.
        weights: of the prompts in the resamples, as `drawn` gives them.
        costs: budgets at which to say how far `other` is ahead.
        distance: whether values are distances, above 0 and better the smaller they are; else they are scores.
    """
    alike = np.full(len(weights), 1 / len(weights))
    found, (knots, ahead) = crossings(
        (one.costs, one.quality(alike, distance)), (other.costs, other.quality(alike, distance))
    )
    if not len(knots):
        return Comparison(float(other.costs.min()), float(other.costs.max()), 0.0, (), ())
    pairs = zip(one.quality(weights, distance).T, other.quality(weights, distance).T, strict=True)
    again = [crossings((one.costs, first), (other.costs, second)) for first, second in pairs]
    gains = []
    for cost in costs:
        if knots[0] <= np.log(cost) <= knots[-1]:
            here = [np.interp(np.log(cost), *curve) for curve in ((knots, ahead), *(curve for _, curve in again))]
            low, high = np.percentile(here[1:], BOUNDS)
            gains.append(Gain(cost, *(float(np.exp(each) if distance else each) for each in (here[0], low, high))))
    return Comparison(
        float(np.exp(knots[0])),
        float(np.exp(knots[-1])),
        _share_ahead(knots, ahead),
        _intervals(found, [own for own, _ in again]),
        gains,
    )


def _intervals(found: Sequence[tuple[float, bool]], again: Sequence[Sequence[tuple[float, bool]]]) -> list[Crossing]:
    """Of each crossing: what is nearest to it in every resample, of those of its direction that are nearest to it."""
    made = []
    for cost, below in found:
        rivals = [at for at, own in found if own == below]
        nearest = []
        for each in again:
            mine = [at for at, own in each if own == below and _nearest(at, rivals) == cost]
            if mine:
                nearest.append(_nearest(cost, mine))
        low, high = np.percentile(nearest, BOUNDS) if nearest else (cost, cost)
        made.append(Crossing(cost, float(low), float(high), below, len(nearest) / len(again)))
    return made


def _nearest(cost: float, costs: Sequence[float]) -> float:
    return min(costs, key=lambda other: abs(np.log(other / cost)))


def _share_ahead(knots: Floats, ahead: Floats) -> float:
    """Share of the knots' range in which a line through them is above 0."""
    positive = 0.0
    for left, right, width in zip(ahead, ahead[1:], np.diff(knots), strict=False):
        high, low = max(left, right), min(left, right)
        positive += width * (1.0 if low >= 0 < high else 0.0 if high <= 0 else high / (high - low))
    return float(positive / (knots[-1] - knots[0]))
