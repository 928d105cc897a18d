"""Running a pipeline whose network lives on the meta device: shapes and MACs of real-size models without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.state import State
from postdiff.methods.base import Method, NetworkCall

__all__ = ["OnMeta", "pin_to_cpu"]


@dataclass
class OnMeta(Method):
    """Hand the network its arguments on the meta device and return zeros. Must be the last of a stack.

    Scheduler and pipeline go on with real numbers; caches of other methods hold meta tensors.
    """

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        output = forward(sample.to("meta"), _to_meta(kwargs))
        return torch.zeros(output.shape, dtype=output.dtype)


def pin_to_cpu(pipe: Any) -> Any:
    """Let a pipeline work on the CPU although its network is on the meta device; returns the same object."""
    cls = type(pipe)
    device = property(lambda self: torch.device("cpu"))
    pipe.__class__ = type(cls.__name__, (cls,), {"_execution_device": device, "device": device})
    return pipe


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_to_meta(item) for item in value)
    return value
