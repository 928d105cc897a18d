"""Computing one guidance branch of a batch instead of all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family
from postdiff.engine.rows import map_tensors, split_rows
from postdiff.engine.state import State

__all__ = ["compute_only", "condition_only", "on_batched", "only_branch", "refuse_parts"]


def only_branch(branch: str, sample: Tensor, kwargs: dict[str, Any], state: State) -> tuple[Tensor, dict[str, Any]]:
    """The arguments of a network call for one branch of those in `state.branches`.

    Every tensor with as many rows as the sample is cut, nested ones too; tables without a batch
    (`family.unbatched`) pass as they are, and tensors with several rows a sample (`family.multiples`) are cut in
    proportion. Residuals of a ControlNet that has been cut already have fewer rows and pass as well.
    """
    position, parts = state.branches.index(branch), len(state.branches)

    def cut(value: Any) -> Any:
        return split_rows(value, parts)[position]

    return cut(sample), on_batched(cut, kwargs, len(sample), state.family)


def on_batched(change: Callable[[Tensor], Tensor], kwargs: dict[str, Any], rows: int, family: Family) -> dict[str, Any]:
    """The network's arguments with `change` applied to every tensor that goes with the `rows` of its sample."""
    places = dict(family.rows_at)

    def among(name: str, value: Any) -> Any:
        if family.layout == "list" and isinstance(value, list) and len(value) == rows:
            return [value[row] for row in change(torch.arange(rows, device="cpu")).tolist()]

        def changed(tensor: Tensor) -> Tensor:
            at = places.get(name, 0)
            if tensor.ndim <= at:
                return tensor
            found = tensor.shape[at]
            if found == rows or (name in family.multiples and found % rows == 0):
                return change(tensor.movedim(at, 0)).movedim(0, at)
            return tensor

        return map_tensors(changed, value)

    return {name: value if name in family.unbatched else among(name, value) for name, value in kwargs.items()}


def compute_only(
    branch: str, forward: Callable[..., Tensor], sample: Tensor, kwargs: dict[str, Any], state: State
) -> Tensor:
    """Run the network for one branch and return its output in the place of every branch.

    The pipeline's own guidance `u + w (c - u)` is then exactly `c`, whatever the scale.
    """
    wanted = state.branches
    if wanted == (branch,):
        return forward(sample, kwargs)
    sample, kwargs = only_branch(branch, sample, kwargs, state)
    state.branches = (branch,)
    try:
        output = forward(sample, kwargs)
    finally:
        state.branches = wanted
    return torch.cat([output] * len(wanted))


def condition_only(branch: str, forward: Callable[..., Any], kwargs: dict[str, Any], state: State) -> Any:
    """Run a ControlNet for one branch; its residuals fit a denoiser cut by `compute_only` as they are."""
    sample = kwargs["sample"]
    if len(sample) != state.samples * len(state.all_branches) or len(state.all_branches) == 1:
        return forward(kwargs)  # guess mode sends the conditional rows alone
    wanted = state.branches
    _, kwargs = only_branch(branch, sample, kwargs, state)
    state.branches = (branch,)
    try:
        return forward(kwargs)
    finally:
        state.branches = wanted


def refuse_parts(methods: Iterable[Any], state: State) -> None:
    """For a run whose network takes the branches of a batch apart itself, before its first step.

    Raises:
        UsageError: a method plans to leave a branch out at some step, or rows of some images, or mixes branches.
    """
    for method in methods:
        # With an option `text` it fills what it keeps from both branches of guidance, of which there may be one here.
        alone = method.adaptive or hasattr(method, "text")
        for step in range(state.steps):
            state.index = step
            copy.copy(method).step_start(state)
            alone, state.only = alone or state.only is not None, None
        state.index = 0
        if alone:
            raise UsageError(
                f"{type(method).__name__} computes parts of a batch, and this pipeline's perturbed attention needs all "
                "of it; leave the method out, or use pag_scale=0"
            )
