"""How much memory tensors hold."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["alive", "left_by"]


def alive(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or on a CPU of all tensors that Python knows of."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    # Exact types: what a compiler keeps for itself looks like a tensor and holds nothing.
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) in (Tensor, Parameter)]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def left_by(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call leaves behind, its result let go; it must be warm. Python's search for cycles frees nothing."""
    gc.collect()
    before = alive(device)
    gc.disable()
    try:
        call()
        return alive(device) - before
    finally:
        gc.enable()
