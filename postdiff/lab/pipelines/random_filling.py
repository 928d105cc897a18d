"""Modules made without their own initialisation, and filled with random numbers quickly: 859 million in a second or so.

One block of numbers is drawn and dealt out again and again. Its length is a prime, so that no two rows of a matrix
begin at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["fill", "unfilled"]

BLOCK = 4_194_301
# Below 1, so that predictions stay smaller than the noise that they are taken from. The numbers of a run then stay far
# from the end of float16; infinities are quick to compute with on some machines and slow on others.
GAIN = 0.5

# How modules set their weights. What one of these calls inside, a mode is not asked about again.
DRAWING = (
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, Tensor.uniform_, Tensor.normal_),
)


@contextmanager
def unfilled() -> Iterator[None]:
    """Make modules whose large weights are not set: memory that is never written to is never taken.

    Buffers, which hold tables, are made as always. The global random numbers are left where they were.
    """
    with torch.random.fork_rng(devices=[]), _NotDrawn():
        yield


def fill(module: nn.Module, dtype: torch.dtype, device: str, seed: int = 0) -> None:
    """Give a module its dtype, its device and random weights, in place.

    Weights are normal and get smaller with the number of inputs, which keeps the size of activations; biases are 0
    and the factors of norms 1. Parts that diffusers keeps in float32 stay so.

    Args:
        module: as made within `unfilled`.
        dtype: of its weights.
        device: where they go.
        seed: of the numbers.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    block = torch.randn(BLOCK, generator=generator).to(device)
    exact = tuple(getattr(type(module), "_keep_in_fp32_modules", None) or ())
    begin = 0
    for name, parameter in module.named_parameters():
        own = torch.float32 if any(part in exact for part in name.split(".")) else dtype
        made = torch.empty(parameter.shape, dtype=own, device=device)
        if parameter.ndim < 2:
            made.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            inputs = parameter.numel() // parameter.shape[0]
            begin = _deal(block, made.view(-1), begin)
            made.mul_(GAIN * inputs**-0.5)
        parameter.data = made
    for name, table in module.named_buffers():
        owner, _, last = name.rpartition(".")
        kept = table.dtype if not table.is_floating_point() or last in exact else dtype
        setattr(module.get_submodule(owner), last, table.to(device, kept))


def _deal(block: Tensor, flat: Tensor, begin: int) -> int:
    """Fill a vector from the block, from `begin` on and from the start again; where the next one begins."""
    done = 0
    while done < flat.numel():
        part = block[begin : begin + flat.numel() - done]
        flat[done : done + part.numel()].copy_(part)
        done, begin = done + part.numel(), (begin + part.numel()) % block.numel()
    return begin


class _NotDrawn(TorchFunctionMode):
    """Leaves out the drawing of initial values, which takes far longer than all else, and which `fill` replaces."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
