"""Experiment file, row and command line laid over the schema, and every value checked that needs no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.settings import metric_specs, schedulers
from postdiff.lab.settings.config import RunConfig
from postdiff.lab.settings.schema import merged

__all__ = ["check_device", "check_seeds", "resolve"]

DTYPES = ("float32", "float16", "bfloat16")
WANDB = ("off", "offline", "online")
ACCELERATORS = ("auto", "cpu", "gpu")
STRATEGIES = ("auto", "ddp")
STORES = ("png", "npz")
ATTENTIONS = ("math", "flash", "efficient", "cudnn", "eager")
WEIGHTS = ("trained", "random")


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> RunConfig:
    """Merge the layers, the last one uppermost, and check every value that can be checked without a model.

    Raises:
        UsageError: unknown key or name, wrong type, or a value out of range.
    """
    config = merged(RunConfig, [(where, _long_form(values)) for where, values in layers])
    where = layers[-1][0] if layers else "the defaults"
    try:
        if any(values.get("seeds") == [] for _, values in layers):
            raise UsageError(
                "seeds=[] must be a list of different whole numbers, for instance [0,1,2]; or leave it out"
            )
        _check(config)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return config


def check_device(name: str) -> None:
    """Refuse what is no name of a device, whether it is there or not.

    Raises:
        UsageError: none of auto, cpu, cuda and cuda:N.
    """
    if name not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,4}", name):
        raise UsageError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:N")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are the same or out of range; none at all are fine here.

    Raises:
        UsageError: with the range.
    """
    if len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise UsageError(
            f"seeds={list(seeds)} must be a list of different whole numbers from 0 and below 2**63, for instance "
            "[0,1,2]"
        )


def _long_form(values: Mapping[str, Any]) -> dict[str, Any]:
    # `scheduler: ddim` is what everybody writes first.
    found = dict(values)
    if values.get("wandb") is False:
        found["wandb"] = "off"  # YAML takes the word for a truth value
    if isinstance(values.get("scheduler"), str):
        found["scheduler"] = {"name": values["scheduler"]}
    if isinstance(stages := values.get("stages"), Mapping):
        found["stages"] = {name: _long_form(own) if isinstance(own, Mapping) else own for name, own in stages.items()}
    return found


def _check(config: RunConfig) -> None:
    whole = {"steps": config.steps, "batch_size": config.batch_size, "reference_steps": config.reference_steps}
    whole |= {
        name: value for name in ("count", "height", "width", "frames") if (value := getattr(config, name)) is not None
    }
    whole["bench.batch_size"] = config.bench.batch_size
    guidance = {"guidance_scale": config.guidance_scale}
    for stage, own in config.stages.items():
        steps = {"steps": own.steps, "reference_steps": own.reference_steps}
        whole |= {f"stages.{stage}.{name}": value for name, value in steps.items() if value is not None}
        guidance[f"stages.{stage}.guidance_scale"] = own.guidance_scale
    whole |= {"trainer.devices": config.trainer.devices, "trainer.num_nodes": config.trainer.num_nodes}
    for name, value in whole.items():
        if value < 1:
            raise UsageError(f"{name}={value} is too small; use at least 1")
    for name, value in {"bench.repeats": config.bench.repeats, "bench.warmup": config.bench.warmup}.items():
        if value < 0:
            raise UsageError(f"{name}={value} is negative; use 0 or more")
    for name, scale in guidance.items():
        if scale is not None and not 0 <= scale < float("inf"):
            raise UsageError(f"{name}={scale} is out of range; use 0 or more")
    if config.strength is not None and not 0 < config.strength <= 1:
        raise UsageError(f"strength={config.strength} is out of range; use above 0, to 1")
    check_seeds(config.seeds)
    if config.dtype is not None and config.dtype not in DTYPES:
        raise unknown("dtype", config.dtype, DTYPES)
    named = {"store": (config.store, STORES), "trainer.accelerator": (config.trainer.accelerator, ACCELERATORS)}
    named |= {"trainer.strategy": (config.trainer.strategy, STRATEGIES), "weights": (config.weights, WEIGHTS)}
    for name, (value, choices) in named.items():
        if value not in choices:
            raise unknown(name, value, choices)
    if config.network.attention is not None and config.network.attention not in ATTENTIONS:
        raise unknown("network.attention", config.network.attention, ATTENTIONS)
    if config.wandb not in WANDB:
        raise unknown("wandb mode", config.wandb, WANDB)
    if config.mirror.pictures < 0:
        raise UsageError(f"mirror.pictures={config.mirror.pictures} is negative; use 0 or more")
    if not 0 < config.mirror.timeout < float("inf"):
        raise UsageError(f"mirror.timeout={config.mirror.timeout} is out of range; use seconds above 0")
    check_device(config.device)
    if config.bootstrap < 0:
        raise UsageError(f"bootstrap={config.bootstrap} is negative; use 0 for none, or 1000")
    metric_specs.names(config.metrics)
    for solver in (config.scheduler, *(own.scheduler for own in config.stages.values())):
        if solver.name is not None:
            schedulers.find(solver.name)
        schedulers.check_numbers(solver.options)
