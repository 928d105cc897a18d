"""Rows of a batch: cutting nested outputs into guidance branches and steps, and joining or repeating them.

One network call may serve several steps (`state.span`). Its rows are then ordered branch, step, sample, so that a
branch is one piece of the batch whatever the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["join_rows", "map_tensors", "rows_of_branches", "rows_of_step", "split_rows", "tile_rows"]


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """A copy of a nested value (dicts, tuples, lists) with every tensor replaced by `change(tensor)`."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(change, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(change, item) for item in value)
    return value


def split_rows(value: Any, parts: int) -> list[Any]:
    """Cut every tensor of a (nested) output into `parts` equal pieces along dimension 0."""
    if parts == 1:
        return [value]
    if isinstance(value, Tensor):
        return list(value.chunk(parts))
    if isinstance(value, tuple | list):
        pieces = [split_rows(item, parts) for item in value]
        return [type(value)(piece[i] for piece in pieces) for i in range(parts)]
    return [value] * parts


def join_rows(parts: list[Any]) -> Any:
    """The inverse of `split_rows`."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, tuple | list):
        return type(first)(join_rows(list(items)) for items in zip(*parts, strict=True))
    return first


def rows_of_branches(value: Any, branches: tuple[str, ...], wanted: tuple[str, ...]) -> Any:
    """The rows of some of the guidance branches that a (nested) value has rows of."""
    if wanted == branches:
        return value
    apart = split_rows(value, len(branches))
    return join_rows([apart[branches.index(branch)] for branch in wanted])


def tile_rows(value: Any, branches: int, span: int) -> Any:
    """Repeat the rows of one step for `span` steps: (branches * m, ...) -> (branches * span * m, ...)."""

    def tile(tensor: Tensor) -> Tensor:
        apart = tensor.unflatten(0, (branches, 1, -1))
        return apart.expand(-1, span, *apart.shape[2:]).flatten(0, 2)

    return value if span == 1 else map_tensors(tile, value)


def rows_of_step(value: Any, branches: int, span: int, step: int) -> Any:
    """The rows of one step of `span`, counted from 0 (or backwards from -1): the inverse of `tile_rows`."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (branches, span, -1))[:, step].flatten(0, 1)

    return value if span == 1 else map_tensors(pick, value)
