"""Weights that wait in the computer's memory until a GPU needs them: a model larger than the GPU, at the price of time.

A pipeline is offloaded from the moment it is loaded, since it may not fit on the GPU for even a moment. So rows of
another kind load a pipeline of their own, and nothing need be undone.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from postdiff.engine.errors import UsageError, shown
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.config.value_types import Offload

__all__ = ["check", "chosen", "place", "starts_on"]


def chosen(wanted: Offload | None, usual: Offload | None, device: str) -> Offload | None:
    """What holds for a row: its own word, or else the model card's, which speaks of GPUs alone.

    Args:
        wanted: of the row; "none" for no offloading, whatever the card says.
        usual: of the model card.
        device: of the row.
    """
    if wanted is None:
        return usual if device.startswith("cuda") else None
    return None if wanted == "none" else wanted


def check(config: RunConfig) -> None:
    """Refuse offloading where there is nothing to offload from, or where it would undo another option.

    Args:
        config: of a row, its device and offloading resolved.

    Raises:
        UsageError: with what to set in its place.
    """
    options = config.network
    if (mode := options.offload) is None:
        return
    if not config.device.startswith("cuda"):
        raise UsageError(
            f"network.offload={mode} keeps weights in the computer's memory until a GPU needs them, and this row runs "
            f"on '{config.device}'; leave it out"
        )
    if options.channels_last:
        raise UsageError(
            f"network.channels_last=true would be lost when network.offload={mode} moves weights; use one of them"
        )
    if options.compile and mode != "model":
        raise UsageError(
            f"network.offload={mode} moves the weights of single layers, inside what network.compile=true compiles; "
            "use offload=model"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError(
            f"network.offload={mode} needs the package accelerate, which is not installed; pip install accelerate"
        )


def starts_on(mode: str | None, device: str) -> str:
    """The device that a pipeline is loaded to, before `place`."""
    return device if mode is None else "cpu"


def place(pipe: Any, mode: str | None, device: str) -> None:
    """Let diffusers offload the networks of a pipeline that is on the CPU.

    Args:
        pipe: as it was loaded.
        mode: whole networks ("model"), single layers ("sequential"), or single layers of which the next one is fetched
            while one computes ("group"); None leaves the pipeline alone.
        device: which computes.

    Raises:
        UsageError: diffusers cannot do that with this pipeline.
    """
    if mode is None:
        return
    on = torch.device(device)
    if on.type == "cuda" and on.index is None:  # where several processes have a GPU each, "cuda" means one's own
        on = torch.device("cuda", torch.cuda.current_device())
    try:
        if mode == "model":
            pipe.enable_model_cpu_offload(device=on)
        elif mode == "sequential":
            pipe.enable_sequential_cpu_offload(device=on)
        else:
            pipe.enable_group_offload(on, torch.device("cpu"), offload_type="leaf_level", use_stream=on.type != "cpu")
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UsageError(
            f"network.offload={mode} cannot serve {type(pipe).__name__}: {shown(str(error), 140)}; use another kind"
        ) from error
