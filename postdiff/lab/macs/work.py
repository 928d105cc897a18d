"""What one picture of a row costs: multiply-accumulates, and what really ran."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from postdiff.cost.macs import count_macs
from postdiff.lab.plan import Plan
from postdiff.lab.records.record import Record
from postdiff.lab.sampling.sampler import Sampler

__all__ = ["Work", "adaptive", "count", "known"]

# Pictures that the mean is taken over where a method decides by the features of each.
PICTURES = 8
ByPart = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Work:
    """The work of a row.

    Attributes:
        macs: a picture, by part of the pipeline and convention; a mean where pictures differ.
        spread: their sample standard deviation, empty where every picture costs the same.
        counts: network calls, hits and misses of the first picture.
    """

    macs: ByPart
    spread: ByPart
    counts: dict[str, int]


def adaptive(plan: Plan) -> bool:
    """Whether pictures of a row differ in their work."""
    return any(method.adaptive for method in plan.methods)


def known(record: Record | None) -> Work | None:
    """The work that a quality record of the same pictures tells of, which need not be counted again."""
    return Work(record.macs, record.macs_spread, record.counts) if record and record.macs else None


def count(plan: Plan, sampler: Sampler, see: Callable[[Any], object] = lambda made: None) -> Work:
    """Make one picture under the counter, or several where their work differs.

    Args:
        plan: the row.
        sampler: of the row.
        see: given what each call of the pipeline returns.

    Raises:
        UsageError: methods do not fit each other, the network or the run.
    """
    counted: list[ByPart] = []
    counts: Counter[str] = Counter()
    for sample in plan.samples[: PICTURES if adaptive(plan) else 1]:
        found = count_macs(sampler.pipe, lambda one=sample: see(sampler.call([one])))  # type: ignore[misc]
        counted.append({part: dict(by_convention) for part, by_convention in found.items()})
        counts = counts or sampler.fast.counts
    whole = {name: int(number) for name, number in counts.items()}
    if len(counted) == 1:
        return Work(counted[0], {}, whole)
    mean, spread = ({part: dict(each) for part, each in counted[0].items()} for _ in range(2))
    for part, by_convention in counted[0].items():
        for convention in by_convention:
            values = [one[part][convention] for one in counted]
            mean[part][convention] = round(statistics.fmean(values))
            spread[part][convention] = round(statistics.stdev(values))
    return Work(mean, spread, whole)
