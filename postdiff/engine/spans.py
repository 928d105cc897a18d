"""One network call for `state.span` steps, from `state.index` on; its rows are ordered branch, step, sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.branches import on_batched
from postdiff.engine.errors import UsageError
from postdiff.engine.ownership import put_together, same_memory, taken_apart
from postdiff.engine.rows import map_tensors, rows_of_step, split_rows, tile_rows
from postdiff.engine.state import State

__all__ = ["for_first_step", "foreseen", "predict_span"]


def predict_span(
    forward: Callable[[Tensor, dict[str, Any]], Tensor],
    sample: Tensor,
    kwargs: dict[str, Any],
    state: State,
    span: int,
) -> dict[int, dict[str, Tensor]]:
    """Call the network once for `span` steps from this one on, all on this step's latents.

    Only where what differs between the steps reaches the network through its timestep alone is that what single
    calls would predict.

    Returns:
        {step: {branch: prediction (samples, C, ...)}}.

    Raises:
        UsageError: the pipeline tells its network other times than the scheduler's.
    """
    parts = len(state.branches)
    arguments = on_batched(lambda value: tile_rows(value, parts, span), kwargs, len(sample), state.family)
    if span > 1:
        times = _timesteps(kwargs["timestep"], len(sample) // parts, span, state)
        arguments["timestep"] = times.to(sample.device)  # schedulers may keep theirs on the CPU
    state.span = span
    try:
        output = forward(tile_rows(sample, parts, span), arguments)
    finally:
        state.span = 1
    pieces = [split_rows(rows_of_step(output, parts, span, i), parts) for i in range(span)]
    return {state.index + i: dict(zip(state.branches, piece, strict=True)) for i, piece in enumerate(pieces)}


def for_first_step(inner: Callable[..., Any], state: State) -> Callable[..., Any]:
    """Let a module run for the first of the steps that a call serves, and repeat its output for all of them.

    Args:
        inner: as `around` of `intercept`; it sees the rows of one step, and `state.span` 1.
        state: of the run.
    """

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parts, span = len(state.branches), state.span
        if span == 1:
            return inner(forward, *args, **kwargs)
        rows = parts * span * state.samples

        def first(tensor: Tensor) -> Tensor:
            tiled = tensor.ndim > 0 and tensor.shape[0] % rows == 0
            return rows_of_step(tensor, parts, span, 0) if tiled else tensor

        args, kwargs = map_tensors(first, (args, kwargs))
        state.span = 1
        try:
            output = inner(forward, *args, **kwargs)
        finally:
            state.span = span
        tensors, form = taken_apart(output)
        return put_together([tile_rows(tensor, parts, span) for tensor in tensors], form)

    return around


def foreseen(kwargs: dict[str, Any], state: State) -> bool:
    """Whether a call is for the time that `predict_span` took this step to be at."""
    return _same_time(_first(kwargs["timestep"]), state.timesteps[state.index])


def _first(given: Any) -> Tensor:
    times = torch.as_tensor(given)
    return times[(0,) * times.ndim]


def _same_time(sent: Tensor, step: Tensor) -> bool:
    if sent.device == step.device and sent.dtype == step.dtype and same_memory(sent, step):
        return True  # looking at the numbers would wait for a GPU
    step = step.to(sent) if sent.is_floating_point() else step.to(sent.device)  # in half precision times are rounded
    return bool(torch.isclose(sent.float(), step.float()))


def _timesteps(given: Any, rows: int, span: int, state: State) -> Tensor:
    steps = state.timesteps[state.index : state.index + span]
    sent = _first(given)
    if not _same_time(sent, steps[0]):
        raise UsageError(
            "this pipeline tells its network other times than its scheduler's, so those of later steps are not known; "
            "use decoding='sequential'"
        )
    return steps.to(sent.dtype).repeat_interleave(rows).repeat(len(state.branches))
