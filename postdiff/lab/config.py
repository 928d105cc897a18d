"""What a run is made of. The dataclass is the schema; experiment file, row and command line are laid over it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from postdiff import metrics
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab import schedulers
from postdiff.lab.schema import merged

__all__ = ["DTYPES", "BenchConfig", "RunConfig", "SchedulerConfig", "digest", "resolve"]

DTYPES = ("float32", "float16", "bfloat16")
WANDB = ("off", "offline", "online")


@dataclass
class SchedulerConfig:
    """The solver: a name of `schedulers.SCHEDULERS` (null: the model's own) and options laid over the model's."""

    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class BenchConfig:
    """How speed is measured; repeats 0 leaves it out."""

    repeats: int = 5
    warmup: int = 1
    batch_size: int = 1


@dataclass
class RunConfig:
    """Everything that one row of an experiment is made with.

    Attributes:
        model: name of a model card, or a pipeline folder.
        data: name of a data card.
        scheduler: the solver.
        steps: inference steps.
        guidance_scale: classifier-free guidance; null means the model card's.
        height: picture height in pixels; null means the model card's.
        width: picture width in pixels; null means the model card's.
        strength: share of the noise that image-to-image starts from, above 0 to 1: it runs that share of `steps`.
            null means the model card's.
        frames: length of a video; null means the model card's. A video counts as that many pictures; network calls,
            MACs and times are of whole videos.
        methods: presets by name or one-key mappings {method: {option: value}}, first outermost.
        count: number of prompts, from the first on; null means all.
        seeds: every prompt is drawn once with each of them.
        batch_size: pictures made at once in the quality run.
        dtype: float32, float16 or bfloat16; null means the model card's.
        device: auto, cpu, cuda or cuda:N.
        metrics: names of metrics; null means all that the model and the data can serve.
        reference_steps: steps of the run without methods that the paired metrics compare with.
        step_scores: draw once more, and give the clean estimate after every step the model's text score.
        bench: how speed is measured.
        wandb: off, offline or online.
    """

    model: str = "emoji"
    data: str = "emoji"
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    steps: int = 20
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    strength: float | None = None
    frames: int | None = None
    methods: list[Any] = field(default_factory=list)
    count: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    batch_size: int = 16
    dtype: str | None = None
    device: str = "auto"
    metrics: list[str] | None = None
    reference_steps: int = 50
    step_scores: bool = False
    bench: BenchConfig = field(default_factory=BenchConfig)
    wandb: str = "off"

    def as_dict(self) -> dict[str, Any]:
        """The config as plain values."""
        return dataclasses.asdict(self)


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> RunConfig:
    """Merge the layers, the last one uppermost, and check every value that can be checked without a model.

    Raises:
        UsageError: unknown key or name, wrong type, or a value out of range.
    """
    config = merged(RunConfig, [(where, _long_form(values)) for where, values in layers])
    where = layers[-1][0] if layers else "the defaults"
    try:
        _check(config)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return config


def digest(values: Any, length: int = 12) -> str:
    """A hash of plain values that does not depend on the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _long_form(values: Mapping[str, Any]) -> dict[str, Any]:
    # `scheduler: ddim` is what everybody writes first.
    if isinstance(values.get("scheduler"), str):
        return {**values, "scheduler": {"name": values["scheduler"]}}
    return dict(values)


def _check(config: RunConfig) -> None:
    whole = {"steps": config.steps, "batch_size": config.batch_size, "reference_steps": config.reference_steps}
    whole |= {
        name: value for name in ("count", "height", "width", "frames") if (value := getattr(config, name)) is not None
    }
    whole["bench.batch_size"] = config.bench.batch_size
    for name, value in whole.items():
        if value < 1:
            raise UsageError(f"{name}={value} is too small; use at least 1")
    for name, value in {"bench.repeats": config.bench.repeats, "bench.warmup": config.bench.warmup}.items():
        if value < 0:
            raise UsageError(f"{name}={value} is negative; use 0 or more")
    if config.guidance_scale is not None and not 0 <= config.guidance_scale < float("inf"):
        raise UsageError(f"guidance_scale={config.guidance_scale} is out of range; use 0 or more")
    if config.strength is not None and not 0 < config.strength <= 1:
        raise UsageError(f"strength={config.strength} is out of range; use above 0, to 1")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise UsageError(f"seeds={config.seeds} must be a list of different whole numbers, for instance [0,1,2]")
    if config.dtype is not None and config.dtype not in DTYPES:
        raise unknown("dtype", config.dtype, DTYPES)
    if config.wandb not in WANDB:
        raise unknown("wandb mode", config.wandb, WANDB)
    if config.device not in ("auto", "cpu", "cuda") and not config.device.removeprefix("cuda:").isdigit():
        raise UsageError(f"unknown device '{config.device}'; use auto, cpu, cuda or cuda:N")
    chosen = config.metrics or []
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"metrics={chosen} names a metric twice; name it once")
    for name in chosen:
        metrics.find(name)
    if config.scheduler.name is not None:
        schedulers.find(config.scheduler.name)
