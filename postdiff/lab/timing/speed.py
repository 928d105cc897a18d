"""Time per picture of several rows, measured in turns so that drift of the machine hits all alike.

Of every call the denoising loop is timed apart. Peak memory and MACs follow from further calls: with the MACs, a table
can say how much of the saving became time. With `bench.official` the code of others runs in the same turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.cost import latency
from postdiff.cost.latency import Rounds, Timed
from postdiff.cost.memory import peak_memory
from postdiff.cost.ratios import Latency, ratio
from postdiff.cost.time_limit import TimeIsUp, TimeLimit
from postdiff.lab.devices import provenance
from postdiff.lab.drawing.sampling import Pipelines, Sampler
from postdiff.lab.job import Job
from postdiff.lab.macs import work
from postdiff.lab.mirrors import mirror
from postdiff.lab.progress import bar
from postdiff.lab.records import recording, results
from postdiff.lab.records.results import Record
from postdiff.lab.timing import peers
from postdiff.lab.timing.peers import Peer
from postdiff.lab.timing.turns import compared, limit_of, told

__all__ = ["measure"]


@dataclass(frozen=True)
class _Seen:
    """What a call shows beside its time.

    Attributes:
        peak: its most memory in bytes.
        spent: its work.
        finite: whether its pictures are numbers throughout.
        difference: how far they are from the peer's at most: 0 if alike.
    """

    peak: int
    spent: work.Work
    finite: bool
    difference: float | None


@dataclass(frozen=True)
class _Row:
    """What is timed of a row."""

    job: Job
    sampler: Sampler
    batch: list[Any]
    peer: Peer | None

    def ours(self) -> Any:
        return self.sampler.call(self.batch)

    def theirs(self) -> Any:
        return self.sampler.call(self.batch, self.sampler.pipe)

    def look(self, counts: dict[str, work.Work]) -> _Seen:
        """What is measured beside time, in as few calls as can be: a call may last minutes.

        They come first, and so warm the row up as well.

        Args:
            counts: {id of settings and samples: their work}, which this adds to: it does not depend on the batch size.
        """
        job, made, counted = self.job, [], []
        device, spent = job.config.device, counts.get(job.drawn_id) or work.known(recording.last(job))
        if spent is not None or len(self.batch) > 1 or work.adaptive(job):
            peak = peak_memory(lambda: made.append(self.ours()), device)
            spent = spent or work.count(job, self.sampler)
        else:
            peak = peak_memory(lambda: counted.append(work.count(job, self.sampler, made.append)), device)
            [spent] = counted
        counts[job.drawn_id] = spent
        ours = _pictures(made[0])
        finite = bool(ours.isfinite().all())
        if self.peer is None:
            return _Seen(peak, spent, finite, None)
        with self.peer.ready():
            theirs = _pictures(self.theirs())
        return _Seen(peak, spent, finite, float((ours - theirs).abs().max()))


def measure(jobs: Sequence[Job], pipelines: Pipelines) -> list[Record]:
    """Time all jobs whose `bench.repeats` is not 0, measure peak memory and MACs of one more call each, write records.

    Rows on the same weights and of one batch size run in turns, also in several dtypes or with several network options,
    for each of which a pipeline is held; rows on other weights, or offloaded otherwise, follow, since two models may
    not fit in memory. With `bench.seconds` each such group gets its part of the time, and its records are there when it
    is done.

    Raises:
        UsageError: methods do not fit, or an official package is wanted and missing.
        TimeIsUp: a group does not get through one round in its time. Those after it are measured all the same.
    """
    timed = [job for job in jobs if job.config.bench.repeats]
    limit, groups = limit_of(timed), compared(timed)
    started, counts = recording.now(), dict[str, work.Work]()
    records, short = list[Record](), list[TimeIsUp]()
    for place, group in enumerate(groups):
        to_come = len(groups) - place
        try:
            with told(group, limit, to_come):
                records += _measure(group, pipelines, started, limit.part(to_come), counts)
        except TimeIsUp as error:
            short.append(error)
    if short:
        raise short[0]
    return records


def _measure(
    jobs: Sequence[Job], pipelines: Pipelines, started: str, limit: TimeLimit, counts: dict[str, work.Work]
) -> list[Record]:
    repeats = max(job.config.bench.repeats for job in jobs)
    warmup = max(job.config.bench.warmup for job in jobs)
    rows = _rows(jobs, pipelines)
    calls: dict[str, Timed] = {}
    for row in rows:
        loops = _loops(row.sampler)
        calls[row.job.name] = Timed(row.ours, loops=loops)
        if row.peer is not None:
            calls[_beside(row.job)] = Timed(row.theirs, row.peer.ready, loops)
    seen: dict[str, _Seen] = {}
    with bar("speed", len(calls) * (warmup + repeats) + len(rows), "call") as shown:
        begin = limit.gone
        for done, row in enumerate(rows, 1):
            seen[row.job.name] = row.look(counts)
            shown.update()
            limit.need((limit.gone - begin) / done * (len(rows) - done))
        found = latency.measure(calls, warmup=warmup, repeats=repeats, progress=lambda *_: shown.update(), limit=limit)
    environment = provenance.environment(jobs[0].config.device)  # with clocks as the last round leaves them
    session = f"{started} {provenance.device_name(jobs[0].config.device)}"
    records = []
    for row in rows:
        name, size = row.job.name, len(row.batch)
        own, beside = found[name], found.get(_beside(row.job))
        figures = {
            **_seconds(own.whole, size),
            **({"loop": _seconds(own.loop, size)} if own.loop else {}),
            "repeats": len(own.whole),
            **({} if row.job.config.bench.seconds is None else {"seconds": row.job.config.bench.seconds}),
            "finite": seen[name].finite,
            "warmup": warmup,
            "batch_size": size,
            "peak_memory_mb": seen[name].peak / 1e6,  # of a call, not of a picture
            "session": session,
            "rounds_s": [seconds / size for seconds in own.whole],
            "loop_rounds_s": [seconds / size for seconds in own.loop],
        }
        if row.peer is not None and beside is not None:
            figures["official"] = _against(row.peer, own, beside, size) | {"difference": seen[name].difference}
        record = recording.record(
            row.job,
            kind="speed",
            run_id=row.job.speed_id,
            started=started,
            n_asked=len(own.whole) if row.job.config.bench.seconds else repeats,  # as many as ended in time
            n_done=len(own.whole),
            macs=seen[name].spent.macs,
            macs_spread=seen[name].spent.spread,
            counts=seen[name].spent.counts,
            latency=figures | {"environment": environment},
        )
        record.write(results.fresh_path(row.job.experiment, name, "speed"))
        records.append(record)
    for row, record in zip(rows, records, strict=True):
        mirror.speed(row.job, record)
    return records


def _rows(jobs: Sequence[Job], pipelines: Pipelines) -> list[_Row]:
    """A pipeline for every variant of the weights; the first is the one that is at hand already."""
    held: dict[Any, Pipelines] = {}
    rows = []
    for job in jobs:
        variant = job.variant
        held.setdefault(variant, pipelines if not held else Pipelines())
        sampler = held[variant].sampler(job)
        batch = list(itertools.islice(itertools.cycle(job.samples), job.config.bench.batch_size))
        # Compiled blocks would pass over what a peer puts inside them, and offloading would take it away.
        network = job.config.network
        beside = job.config.bench.official and not network.compile and network.offload is None
        peer = peers.peer_of(job, sampler.pipe) if beside else None
        rows.append(_Row(job, sampler, batch, peer))
    return rows


def _beside(job: Job) -> str:
    return f"{job.name}/official"


def _loops(sampler: Sampler) -> list[tuple[Any, Any]]:
    schedulers = getattr(sampler, "schedulers", None)
    if schedulers is None:
        return [(sampler.pipe, sampler.scheduler)]
    return [(pipe, schedulers[stage]) for stage, pipe in sampler.pipe.pipes.items()]


def _seconds(rounds: Sequence[float], pictures: int) -> dict[str, float]:
    found = Latency.of([seconds / pictures for seconds in rounds])
    return {"median_s": found.median, "q25_s": found.q25, "q75_s": found.q75}


def _against(peer: Peer, own: Rounds, beside: Rounds, pictures: int) -> dict[str, Any]:
    """The peer's times, and how many times faster we are: above 1 our code is the faster one."""
    whole, loop = ratio(beside.whole, own.whole), ratio(beside.loop, own.loop)
    return {
        "name": peer.name,
        **_seconds(beside.whole, pictures),
        "ratio": whole.median,
        "ratio_q25": whole.q25,
        "ratio_q75": whole.q75,
        "loop_ratio": loop.median,
        "loop_ratio_q25": loop.q25,
        "loop_ratio_q75": loop.q75,
    }


def _pictures(result: Any) -> Tensor:
    return torch.as_tensor(result.frames if hasattr(result, "frames") else result.images).float().cpu()
