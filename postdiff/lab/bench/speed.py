"""Time per image of several rows, measured in turns so that drift of the machine hits all alike.

Of every call the denoising loop is timed apart. Peak memory and MACs follow from further calls: with the MACs, a table
can say how much of the saving became time. With `bench.official` the code of others runs in the same turns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.cost import latency
from postdiff.cost.latency import Rounds, Timed, TimeIsUp, TimeLimit
from postdiff.cost.memory import peak_memory
from postdiff.cost.ratios import Latency, ratio
from postdiff.lab.bench.reference_implementations import ReferenceImplementation, reference_of
from postdiff.lab.devices import provenance
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.loggers import log
from postdiff.lab.macs import row_macs
from postdiff.lab.plan.plan import Plan, same_weights
from postdiff.lab.progress import bar
from postdiff.lab.records import stored
from postdiff.lab.records.record import Record, fresh_path

__all__ = ["limit_of", "measure", "naming_rows"]


@dataclass(frozen=True)
class _Seen:
    """What a call shows beside its time.

    Attributes:
        peak: its most memory in bytes.
        spent: its work.
        finite: whether its images are numbers throughout.
        difference: how far they are from the reference implementation's at most: 0 if alike.
    """

    peak: int
    spent: row_macs.RowWork
    finite: bool
    difference: float | None


@dataclass(frozen=True)
class _Row:
    """What is timed of a row."""

    plan: Plan
    sampler: Sampler
    batch: list[Any]
    reference: ReferenceImplementation | None

    def ours(self) -> Any:
        return self.sampler.call(self.batch)

    def theirs(self) -> Any:
        return self.sampler.call(self.batch, self.sampler.pipe)

    def look(self, counts: dict[str, row_macs.RowWork]) -> _Seen:
        """What is measured beside time, in as few calls as can be: a call may last minutes.

        They come first, and so warm the row up as well.

        Args:
            counts: {id of settings and samples: their work}, which this adds to: it does not depend on the batch size.
        """
        plan, made, counted = self.plan, [], []
        device, spent = plan.config.device, counts.get(plan.content_id) or row_macs.known(stored.last(plan))
        if spent is not None or len(self.batch) > 1 or row_macs.adaptive(plan):
            peak = peak_memory(lambda: made.append(self.ours()), device)
            spent = spent or row_macs.count(plan, self.sampler)
        else:
            peak = peak_memory(lambda: counted.append(row_macs.count(plan, self.sampler, made.append)), device)
            [spent] = counted
        counts[plan.content_id] = spent
        ours = _images(made[0])
        finite = bool(ours.isfinite().all())
        if self.reference is None:
            return _Seen(peak, spent, finite, None)
        with self.reference.ready():
            reference = _images(self.theirs())
        return _Seen(peak, spent, finite, float((ours - reference).abs().max()))


def measure(plans: Sequence[Plan], pipelines: Pipelines) -> list[Record]:
    """Time all plans whose `bench.repeats` is not 0, measure peak memory and MACs of one more call each, write records.

    Rows on the same weights and of one batch size run in turns, also in several dtypes or with several network options,
    for each of which a pipeline is held; rows on other weights, or offloaded otherwise, follow, since two models may
    not fit in memory. With `bench.seconds` each such group gets its part of the time, and its records are there when it
    is done.

    Raises:
        UsageError: methods do not fit, or an official package is wanted and missing.
        TimeIsUp: a group does not get through one round in its time. Those after it are measured all the same.
    """
    timed = [plan for plan in plans if plan.config.bench.repeats]
    limit, groups = limit_of(timed), _compared(timed)
    started, counts = stored.now(), dict[str, row_macs.RowWork]()
    records, short = list[Record](), list[TimeIsUp]()
    for place, group in enumerate(groups):
        to_come = len(groups) - place
        try:
            with naming_rows(group, limit, to_come):
                records += _measure(group, pipelines, started, limit.part(to_come), counts)
        except TimeIsUp as error:
            short.append(error)
    if short:
        raise short[0]
    return records


def _measure(
    plans: Sequence[Plan], pipelines: Pipelines, started: str, limit: TimeLimit, counts: dict[str, row_macs.RowWork]
) -> list[Record]:
    repeats = max(plan.config.bench.repeats for plan in plans)
    warmup = max(plan.config.bench.warmup for plan in plans)
    rows = _rows(plans, pipelines)
    calls: dict[str, Timed] = {}
    for row in rows:
        loops = _loops(row.sampler)
        calls[row.plan.name] = Timed(row.ours, loops=loops)
        if row.reference is not None:
            calls[_beside(row.plan)] = Timed(row.theirs, row.reference.ready, loops)
    seen: dict[str, _Seen] = {}
    with bar("speed", len(calls) * (warmup + repeats) + len(rows), "call") as shown:
        begin = limit.gone
        for done, row in enumerate(rows, 1):
            seen[row.plan.name] = row.look(counts)
            shown.update()
            limit.need((limit.gone - begin) / done * (len(rows) - done))
        found = latency.measure(calls, warmup=warmup, repeats=repeats, progress=lambda *_: shown.update(), limit=limit)
    environment = provenance.environment(plans[0].config.device)  # with clocks as the last round leaves them
    session = f"{started} {provenance.device_name(plans[0].config.device)}"
    records = []
    for row in rows:
        name, size = row.plan.name, len(row.batch)
        own, beside = found[name], found.get(_beside(row.plan))
        values = {
            **_seconds(own.whole, size),
            **({"loop": _seconds(own.loop, size)} if own.loop else {}),
            "repeats": len(own.whole),
            **({} if row.plan.config.bench.seconds is None else {"seconds": row.plan.config.bench.seconds}),
            "finite": seen[name].finite,
            "warmup": warmup,
            "batch_size": size,
            "peak_memory_mb": seen[name].peak / 1e6,  # of a call, not of an image
            "session": session,
            "rounds_s": [seconds / size for seconds in own.whole],
            "loop_rounds_s": [seconds / size for seconds in own.loop],
        }
        if row.reference is not None and beside is not None:
            values["official"] = _against(row.reference, own, beside, size) | {"difference": seen[name].difference}
        record = stored.fill(
            row.plan,
            "speed",
            started,
            n_asked=len(own.whole) if row.plan.config.bench.seconds else repeats,  # as many as ended in time
            n_done=len(own.whole),
            macs=seen[name].spent.macs,
            macs_spread=seen[name].spent.spread,
            counts=seen[name].spent.counts,
            latency=values | {"environment": environment},
        )
        record.write(fresh_path(row.plan.experiment, name, "speed"))
        records.append(record)
    for row, record in zip(rows, records, strict=True):
        log.finish(None, row.plan, record)
    return records


def _rows(plans: Sequence[Plan], pipelines: Pipelines) -> list[_Row]:
    """A pipeline for every variant of the weights; the first is the one that is at hand already."""
    held: dict[Any, Pipelines] = {}
    rows = []
    for plan in plans:
        variant = plan.variant
        held.setdefault(variant, pipelines if not held else Pipelines())
        sampler = held[variant].sampler(plan)
        batch = list(itertools.islice(itertools.cycle(plan.samples), plan.config.bench.batch_size))
        # Compiled blocks would pass over what others put inside them, and offloading would take it away.
        network = plan.config.network
        beside = plan.config.bench.official and not network.compile and network.offload is None
        rows.append(_Row(plan, sampler, batch, reference_of(plan, sampler.pipe) if beside else None))
    return rows


def _beside(plan: Plan) -> str:
    return f"{plan.name}/official"


def _loops(sampler: Sampler) -> list[tuple[Any, Any]]:
    schedulers = getattr(sampler, "schedulers", None)
    if schedulers is None:
        return [(sampler.pipe, sampler.scheduler)]
    return [(pipe, schedulers[stage]) for stage, pipe in sampler.pipe.pipes.items()]


def _seconds(rounds: Sequence[float], images: int) -> dict[str, float]:
    found = Latency.of([seconds / images for seconds in rounds])
    return {"median_s": found.median, "q25_s": found.q25, "q75_s": found.q75}


def _against(reference: ReferenceImplementation, own: Rounds, beside: Rounds, images: int) -> dict[str, Any]:
    """The other code's times, and how many times faster we are: above 1 our code is the faster one."""
    whole, loop = ratio(beside.whole, own.whole), ratio(beside.loop, own.loop)
    times = _seconds(beside.whole, images)
    return {"name": reference.name, **times, **whole.named("ratio"), **loop.named("loop_ratio")}


def _images(result: Any) -> Tensor:
    return torch.as_tensor(result.frames if hasattr(result, "frames") else result.images).float().cpu()


def limit_of(plans: Sequence[Plan]) -> TimeLimit:
    """The time that all of them have together, from now on: the longest that one of them is given."""
    given = [plan.config.bench.seconds for plan in plans if plan.config.bench.seconds is not None]
    return TimeLimit(max(given, default=None))


@contextmanager
def naming_rows(plans: Sequence[Plan], limit: TimeLimit, groups: int) -> Iterator[None]:
    """Say of rows that do not get through one round which they are, and how much time would do.

    Args:
        plans: the rows.
        limit: of these and all others.
        groups: as many share what is left of it.

    Raises:
        TimeIsUp: in the place of one that names no rows.
    """
    before = limit.gone
    try:
        yield
    except TimeIsUp as error:
        error.args = (
            f"row '{plans[0].name}'"
            + (f" and the {len(plans) - 1} in turns with it" if len(plans) > 1 else "")
            + f": nothing was measured, since one round does not end in {error.had:.3g} s; use "
            f"bench.seconds={math.ceil(before + groups * error.enough)}, or fewer --rows",
        )
        raise


def _compared(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Jobs in groups whose times are compared: of the same weights and batch size, in order of appearance."""
    groups: dict[tuple[int, int], list[Plan]] = {}
    for place, alike in enumerate(same_weights(plans)):
        for plan in alike:
            groups.setdefault((place, plan.config.bench.batch_size), []).append(plan)
    return list(groups.values())
