"""What a run leaves behind: `Record`, one JSON a row, with how it is read, written and found.

Fresh records are in `outputs/records/<experiment>/`: `<row>.json` for quality, `<row>.speed.json` for speed. Those
that published numbers rest on are committed under `experiments/records/`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Required

from typing_extensions import TypedDict

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders, typed
from postdiff.lab.files.typed import NotAsHinted

__all__ = ["KINDS", "SCHEMA", "Record", "Value", "find", "fresh_path", "full"]

SCHEMA = 1
KINDS = ("quality", "speed")


class _Stage(TypedDict):
    steps: int


class _Config(TypedDict, total=False):
    """What is read of a record's config."""

    model: str
    data: str
    steps: int
    methods: list[dict[str, Any]]
    dtype: str | None
    device: str
    scheduler: dict[str, Any]
    stages: dict[str, _Stage]


class _Git(TypedDict, total=False):
    commit: str
    dirty: bool


class _Official(TypedDict, total=False):
    name: Required[str]
    median_s: Required[float]
    ratio: float
    ratio_q25: float
    ratio_q75: float
    loop_ratio: float
    difference: float | None


class _Latency(TypedDict, total=False):
    """What is read of times."""

    median_s: Required[float]
    q25_s: Required[float]
    q75_s: Required[float]
    batch_size: Required[int]
    session: Required[str]
    loop: dict[str, float]
    rounds_s: list[float]
    loop_rounds_s: list[float]
    peak_memory_mb: float
    repeats: int
    seconds: float
    finite: bool
    official: _Official


@dataclass
class Value:
    """One metric of one row.

    Attributes:
        value: mean of the per-seed values; None if it could not be computed.
        spread: sample standard deviation over seeds; None with a single seed.
        per_seed: the value of each seed alone.
        n: images measured, all seeds together.
        higher_is_better: direction of improvement.
        identity: what must be equal for two values to be comparable.
        interval: lower and upper bound of the 95 % interval over images; None if none was asked for.
    """

    value: float | None
    spread: float | None
    per_seed: dict[str, float | None]
    n: int
    higher_is_better: bool
    identity: dict[str, Any]
    interval: list[float] | None = None


@dataclass
class Record:
    """One row of an experiment, done.

    Attributes:
        kind: "quality" or "speed".
        run_id: hash of the resolved config without paths, labels and device.
        config: the resolved config.
        changed: what the command line changed in it, against the experiment file.
        checkpoint: the weights: hash, or repository@commit[:variant]; a replaced network's follows after "+".
        prompts: hash of the prompts used.
        references: id of the reference images that paired metrics compare with; None if there are none.
        images: id of the row's own images: their folder below `outputs/images`.
        n_asked: images asked for.
        n_done: images generated and measured.
        metrics: values by name.
        curves: {metric: {seed: mean score of the clean estimate after each step}}, if `step_scores` asked for them.
        macs: multiply-accumulates an image, by part of the pipeline and convention.
        macs_spread: their standard deviation over images, where a method decides by the image; else empty.
        counts: network calls, cache hits and misses of one pipeline call.
        latency: median_s, q25_s, q75_s an image, the same of its denoising loop under "loop" and of other code for the
            same work under "official" (with name, ratio and difference), with repeats, warmup, batch_size, session
            (rows timed together), every round, peak_memory_mb of a call, whether its images are finite, and the
            environment. Under a time limit its seconds, and repeats is how many rounds were whole by then.
        values: SHA-256 of the CSV file beside it, which holds the values of the single images; None of times.
        git: commit and dirty flag, empty outside a checkout.
        started: UTC, ISO 8601.
        ended: UTC, ISO 8601.
    """

    kind: str
    experiment: str
    row: str
    label: str
    run_id: str
    config: dict[str, Any]
    checkpoint: str
    seeds: list[int]
    prompts: str
    n_asked: int
    n_done: int
    device: str
    dtype: str
    started: str
    ended: str
    git: dict[str, Any]
    versions: dict[str, str]
    images: str | None = None
    references: str | None = None
    metrics: dict[str, Value] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    macs: dict[str, dict[str, int]] = field(default_factory=dict)
    macs_spread: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    values: str | None = None
    schema: int = SCHEMA

    @property
    def full(self) -> bool:
        """Whether all that was asked for is in it."""
        return self.n_done == self.n_asked

    def denoiser_macs(self, convention: str) -> int | None:
        """The denoiser's multiply-accumulates an image; None if they were not counted in that convention."""
        return self.macs.get("denoiser", {}).get(convention)

    def write(self, file: Path) -> None:
        """Write whole or not at all."""
        # JSON has no NaN and no infinity: what could not be computed is null.
        content = json.loads(json.dumps(dataclasses.asdict(self)), parse_constant=lambda constant: None)
        with folders.atomic_write(file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Record:
        """Read a record.

        Raises:
            UsageError: another schema version, or no record at all.
        """
        found = "a record"
        try:
            content = typed.read(file)
            schema = content.get("schema") if isinstance(content, dict) else None
            if schema is None:
                raise NotAsHinted("has no schema")
            if schema != SCHEMA:
                raise UsageError(
                    f"{file} has schema version {str(schema)[:20]}, this PostDiff reads {SCHEMA}; run the row again"
                )
            if "pictures" in content:
                raise UsageError(
                    f"{file} has the keys of an earlier version; 'python experiments/rewrite_records.py {file.parent}' "
                    "gives it today's"
                )
            found = "a whole record"
            made: Record = typed.built(cls, content)
            made._check()
        except NotAsHinted as error:
            raise UsageError(f"{file} is not {found}: it {error}; remove it and run the row again") from None
        return made

    def _check(self) -> None:
        """What types of fields do not say.

        Raises:
            NotAsHinted: nothing that was measured is recorded so.
        """
        typed.built(_Config, self.config, "config")
        typed.built(_Git, self.git, "git")
        if self.kind == "speed":
            time = typed.built(_Latency, self.latency, "latency")
            seconds = [time["median_s"], *time.get("rounds_s", ()), *time.get("loop_rounds_s", ())]
            if not all(second > 0 for second in seconds):
                raise NotAsHinted("has times that are not above 0")
        if self.kind not in KINDS or not 0 <= self.n_done <= self.n_asked:
            raise NotAsHinted("is of no kind, or of more images than were asked for")
        for name, by_seed in self.curves.items():
            if not by_seed or len({len(curve) for curve in by_seed.values()}) > 1 or not all(by_seed.values()):
                raise NotAsHinted(f"has curves of {name[:40]} without steps, or of unequal length")
        if any(value.interval is not None and len(value.interval) != 2 for value in self.metrics.values()):
            raise NotAsHinted("has an interval without two bounds")


def fresh_path(experiment: str, row: str, kind: str = "quality") -> Path:
    """Where a run writes the record of a row."""
    name = f"{row}.json" if kind == "quality" else f"{row}.{kind}.json"
    return folders.outputs() / "records" / experiment / name


def find(experiment: str, row: str, kind: str = "quality") -> Record | None:
    """The record of a row: the fresh one, or else the committed one, or None.

    Raises:
        UsageError: what is there is not a whole record, or not this row's.
    """
    fresh = fresh_path(experiment, row, kind)
    for file in (fresh, folders.committed_records() / experiment / fresh.name):
        if file.is_file():
            found = Record.read(file)
            if (found.experiment, found.row, found.kind) != (experiment, row, kind):
                raise UsageError(
                    f"{file} is the {found.kind} record of row '{found.row[:40]}' of {found.experiment[:40]}; remove "
                    "it and run the row again"
                )
            return found
    return None


def full(experiment: str, row: str, kind: str, run_id: str) -> Record | None:
    """The fresh record of a row, if it is whole, full and of this run; None says that it is to be made."""
    if not fresh_path(experiment, row, kind).is_file():
        return None
    try:
        found = find(experiment, row, kind)
    except UsageError:
        return None  # damaged or of another version: it is written anew
    return found if found is not None and found.full and found.run_id == run_id else None
