"""Tiny pipelines on a device, in a dtype, with their arguments beside them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.rows import map_tensors
from tests.support import tiny
from tests.support.cases import Case
from tests.support.snapshot import scheduler_keys, snapshot

__all__ = ["HALF", "NAMES", "close", "left", "placed"]

NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
HALF = torch.float16
# Relative to the largest value, at the end of a run: rounding of one network call, carried on by guidance and solver.
# Other batches are computed by other kernels, and TF32 is off.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}


@functools.cache
def placed(name: str, dtype: torch.dtype, device: torch.device) -> tuple[Case, Tensor]:
    """The smallest pipeline of that name, and what it generates bare for samples 0 and 1."""
    one = tiny.build(name, smallest=True)
    move(one, dtype, device)
    return one, one.call(one.pipe)


def move(one: Case, dtype: torch.dtype, device: torch.device) -> None:
    """Pipeline and arguments; generators stay on the CPU."""
    one.pipe.to(device=device, dtype=dtype)
    whole = one.arguments

    def moved(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else None)

    def arguments(ids: list[int]) -> dict[str, Any]:
        return {key: value if key == "generator" else map_tensors(moved, value) for key, value in whole(ids).items()}

    one.arguments = arguments


def left(pipe: Any) -> tuple[Any, ...]:
    """What a call must leave as it was: modules, what is set on the solver, and where the solver keeps its tables."""
    tables = {
        name: (value.device, value.dtype) for name, value in vars(pipe.scheduler).items() if isinstance(value, Tensor)
    }
    return snapshot(pipe), scheduler_keys(pipe.scheduler), tables


def close(found: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Assert that two results are the same up to rounding."""
    bound = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    away = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    assert away <= bound, f"{away:.1e} of the largest value apart, not {bound:.1e}"
