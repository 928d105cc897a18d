"""Time per picture of several rows, measured in turns so that drift of the machine hits all alike.

Peak memory and MACs follow from further calls: with the MACs, a table can say how much of the saving became time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from postdiff.cost.latency import measure as time_calls
from postdiff.cost.memory import peak_memory
from postdiff.lab import mirror, provenance, recording, results, work
from postdiff.lab.job import Job, same_model
from postdiff.lab.progress import bar
from postdiff.lab.results import Record
from postdiff.lab.sampling import Pipelines

__all__ = ["measure"]


def measure(jobs: Sequence[Job], pipelines: Pipelines) -> list[Record]:
    """Time all jobs whose `bench.repeats` is not 0, measure peak memory and MACs of one more call each, write records.

    Rows on the same weights run in turns; rows on other weights follow, since two models may not fit in memory.
    """
    records = []
    for group in same_model([job for job in jobs if job.config.bench.repeats]):
        records += _measure(group, pipelines)
    return records


def _measure(jobs: Sequence[Job], pipelines: Pipelines) -> list[Record]:
    started = recording.now()
    repeats = max(job.config.bench.repeats for job in jobs)
    warmup = max(job.config.bench.warmup for job in jobs)
    calls = {}
    for job in jobs:
        batch = list(itertools.islice(itertools.cycle(job.samples), job.config.bench.batch_size))
        calls[job.name] = partial(pipelines.sampler(job).call, batch)
    with bar("speed", len(calls) * (warmup + repeats + 2), "call") as shown:
        found = time_calls(calls, warmup=warmup, repeats=repeats, progress=lambda *_: shown.update())
        peaks, spent = {}, {}
        for job in jobs:
            peaks[job.name] = peak_memory(calls[job.name], job.config.device)
            shown.update()
            spent[job.name] = work.known(recording.last(job)) or work.count(job, pipelines.sampler(job))
            shown.update()
    records = []
    for job in jobs:
        latency, size = found[job.name], job.config.bench.batch_size
        record = recording.record(
            job,
            kind="speed",
            run_id=job.speed_id,
            started=started,
            n_asked=repeats,
            n_done=latency.repeats,
            macs=spent[job.name].macs,
            macs_spread=spent[job.name].spread,
            counts=spent[job.name].counts,
            latency={
                "median_s": latency.median_s / size,
                "q25_s": latency.q25_s / size,
                "q75_s": latency.q75_s / size,
                "repeats": latency.repeats,
                "warmup": warmup,
                "batch_size": size,
                "peak_memory_mb": peaks[job.name] / 1e6,  # of a call, not of a picture
                "session": f"{started} {provenance.device_name(job.config.device)}",
            },
        )
        record.write(results.fresh_path(job.experiment, job.name, "speed"))
        records.append(record)
    for job, record in zip(jobs, records, strict=True):
        mirror.speed(job, record)
    return records
