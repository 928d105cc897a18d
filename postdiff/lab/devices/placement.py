"""Where a run is computed: which device, and how many of them on how many machines."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from postdiff.engine.errors import UsageError
from postdiff.lab.config.schema import RunConfig, TrainerConfig
from postdiff.lab.devices import provenance

__all__ = ["common", "device"]

FEW = 8  # processes that may always share a CPU, however few cores it has: to try things out


def device(config: RunConfig) -> str:
    """The device of a run: "cpu", "cuda", or "cuda:N".

    Raises:
        UsageError: it is absent, `device` and `trainer` contradict each other, or more devices are asked for than
            this machine has.
    """
    settings, wanted = config.trainer, config.device
    asked = settings.devices * settings.num_nodes
    kind = {"auto": None, "cpu": "cpu", "gpu": "cuda"}[settings.accelerator]
    if kind is not None and wanted != "auto" and not wanted.startswith(kind):
        raise UsageError(f"device={wanted} and trainer.accelerator={settings.accelerator} differ; set one of them")
    found = provenance.resolve_device(kind if kind is not None and wanted == "auto" else wanted)
    if asked > 1 and ":" in found:
        raise UsageError(f"device={wanted} names one GPU; leave it out with trainer.devices={settings.devices}")
    if found == "cuda" and settings.devices > (present := torch.cuda.device_count()):
        raise UsageError(
            f"trainer.devices={settings.devices}: this machine has {present} CUDA devices; use at most that"
        )
    if found == "cpu" and settings.devices > (most := max(os.cpu_count() or 1, FEW)):
        raise UsageError(
            f"trainer.devices={settings.devices}: this machine has {os.cpu_count()} CPU cores, and each device is a "
            f"process of its own; use at most {most}"
        )
    # torchrun says how many processes there are; Lightning would say too late that it expects another number.
    processes = os.environ.get("WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    if processes is not None and int(processes) != asked:
        raise UsageError(
            f"torchrun started {processes} processes, trainer.devices x trainer.num_nodes is {asked}; make them equal"
        )
    return found


def common(configs: Iterable[RunConfig]) -> TrainerConfig:
    """The devices of an experiment, whose rows all run on the same.

    Raises:
        UsageError: its rows ask for different ones.
    """
    found = [config.trainer for config in configs]
    if any(settings != found[0] for settings in found):
        raise UsageError("the rows ask for different devices; give 'trainer' under 'base', or run them with --rows")
    return found[0]
