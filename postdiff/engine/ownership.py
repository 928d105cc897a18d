"""Keeping what others may write into: FreeU scales its input in place, and so do adapters and hooks.

Whatever is kept for a later step, and whatever of it is handed out, is a copy. Copies share their memory until one of
them is written to (torch's copy-on-write), so that where nobody writes nothing is copied. That is for tensors that a
run makes for itself, not for a user's, which other threads may be reading.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Form", "own", "owned", "put_together", "same_memory", "taken_apart"]


@dataclass(frozen=True)
class _Container:
    kind: Any  # what makes it of its items
    items: list[Any] | dict[Any, Any]


@dataclass(frozen=True)
class _Other:
    value: Any


Form = int | _Container | _Other
_sharing = threading.Lock()  # two threads that begin to share one tensor's memory would disown it


def own(tensors: list[Tensor]) -> list[Tensor]:
    """Copies (same values, strides and device) that no write into `tensors` reaches, nor the other way round."""
    if tensors and _can_share(tensors[0]):
        try:
            with _sharing:
                return [torch._lazy_clone(tensor) for tensor in tensors]
        except (AttributeError, RuntimeError, TypeError):  # memory that is not torch's, or a subclass of tensors
            pass
    return [tensor.clone() for tensor in tensors]


def _can_share(tensor: Tensor) -> bool:
    # Other devices may not have it, and beside a GPU's main stream the copy that a write asks for could come too early.
    if tensor.is_cpu or tensor.is_meta:
        return True
    return tensor.is_cuda and torch.cuda.current_stream(tensor.device).cuda_stream == 0


def owned(value: Any) -> Any:
    """The same for a nested value: own tensors, in containers of their own."""
    tensors, form = taken_apart(value)
    return put_together(own(tensors), form)


def taken_apart(value: Any) -> tuple[list[Tensor], Form]:
    """The tensors of a nested value, each once, and how they are put together.

    A tensor that stands in two places, as the output of a U-Net's block does among its skip connections, stays one:
    what is written to it in the one is read in the other.
    """
    if isinstance(value, Tensor):
        return [value], 0
    tensors: list[Tensor] = []
    return tensors, _form(value, tensors, {})


def _form(part: Any, tensors: list[Tensor], places: dict[int, int]) -> Form:
    """The form of a value, whose tensors are added to those found so far; `places`: {id of a tensor: its place}."""
    # A function within another that calls itself is a cycle, and would hold the tensors until Python looks for those.
    if isinstance(part, Tensor):
        if id(part) not in places:
            places[id(part)] = len(tensors)
            tensors.append(part)
        return places[id(part)]
    if isinstance(part, Mapping):
        return _Container(type(part), {key: _form(item, tensors, places) for key, item in part.items()})
    if isinstance(part, tuple | list):
        kind = type(part)
        return _Container(getattr(kind, "_make", kind), [_form(item, tensors, places) for item in part])
    return _Other(part)


def put_together(tensors: list[Tensor], form: Form) -> Any:
    """The inverse of `taken_apart`, for any tensors in the place of those that were found."""
    if isinstance(form, int):
        return tensors[form]
    if isinstance(form, _Other):
        return form.value
    if isinstance(form.items, dict):
        items = {key: put_together(tensors, item) for key, item in form.items.items()}
        return items if form.kind is dict else form.kind(**items)
    return form.kind([tensors[item] if type(item) is int else put_together(tensors, item) for item in form.items])


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape are the same numbers in the same place, which nobody has parted by writing."""
    # Not `data_ptr()`: whoever asks for that may write, so it ends the sharing.
    # On some devices it lies where torch gives no address.
    address = getattr(torch._C, "_data_address", lambda tensor: 0)
    return one is other or (address(one) == address(other) != 0 and one.stride() == other.stride())
