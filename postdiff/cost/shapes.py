"""Arguments of a call without values, as a key: on the meta device nothing else decides what the call does."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

__all__ = ["HoldsValues", "shapes"]


class HoldsValues(Exception):
    """An argument is a tensor that holds numbers."""


def shapes(value: Any) -> Hashable:
    """Sizes, strides and dtypes of all tensors in it, and everything else as it is.

    Raises:
        HoldsValues: a tensor is not on the meta device.
    """
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise HoldsValues
        return value.dtype, value.shape, value.stride()
    if isinstance(value, list | tuple):
        return tuple([shapes(item) for item in value])
    if isinstance(value, dict):
        return tuple([(name, shapes(item)) for name, item in value.items()])
    return type(value), value  # 1, 1.0 and True are one key, but not one argument
