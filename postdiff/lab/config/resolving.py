"""Experiment file, row and command line laid over the schema, and every value checked that needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.config import metric_specs, schedulers
from postdiff.lab.config.layers import merged
from postdiff.lab.config.ranges import check_device, check_seeds
from postdiff.lab.config.schema import RunConfig

__all__ = ["check_device", "check_seeds", "resolve"]


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> RunConfig:
    """Merge the layers, the last one uppermost, and check every value that can be checked without a model.

    Raises:
        UsageError: unknown key or name, wrong type, or a value out of range.
    """
    config = merged(RunConfig, [(where, _long_form(values)) for where, values in layers])
    where = layers[-1][0] if layers else "the defaults"
    try:
        metric_specs.names(config.metrics)
        for solver in (config.scheduler, *(own.scheduler for own in config.stages.values())):
            schedulers.check_numbers(solver.options)
            if solver.name is not None:
                schedulers.find(solver.name)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return config


def _long_form(values: Mapping[str, Any]) -> dict[str, Any]:
    # `scheduler: ddim` is what everybody writes first.
    found = dict(values)
    if values.get("wandb") is False:
        found["wandb"] = "off"  # as readers of older YAML hand the word on
    if isinstance(values.get("scheduler"), str):
        found["scheduler"] = {"name": values["scheduler"]}
    if isinstance(stages := values.get("stages"), Mapping):
        found["stages"] = {name: _long_form(own) if isinstance(own, Mapping) else own for name, own in stages.items()}
    return found
