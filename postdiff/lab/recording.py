"""Filling in what every record says of its job, code and machine, whatever was measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from postdiff.lab import provenance
from postdiff.lab.job import Job
from postdiff.lab.results import Record

__all__ = ["now", "record"]


def now() -> str:
    """The time of day in UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record(job: Job, *, kind: str, run_id: str, started: str, **measured: Any) -> Record:
    """A record that ends now; `measured` holds the fields of `Record` that belong to its kind."""
    return Record(
        kind=kind,
        experiment=job.experiment,
        row=job.name,
        label=job.row.label,
        run_id=run_id,
        config=job.resolved(),
        changed=dict(job.row.changed),
        checkpoint=job.checkpoint,
        seeds=list(job.config.seeds),
        prompts=job.prompts_hash,
        device=provenance.device_name(job.config.device),
        dtype=str(job.config.dtype),
        started=started,
        ended=now(),
        git=provenance.git(),
        versions=provenance.versions(),
        **measured,
    )
