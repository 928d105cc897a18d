"""A second device without hardware: tensors whose numbers lie on the CPU, and which refuse what a GPU's refuse.

Every operation of torch is looked at before it is computed, with the CPU's own kernels. Tensors of both devices
together are an error, but for a single number of the CPU among others element by element, and for indices. So a
pipeline that runs here has every tensor in its place, and draws the CPU's image bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

__all__ = ["DEVICE", "Elsewhere", "elsewhere"]

DEVICE = torch.device("meta")  # one that torch knows of; nothing in the block is without numbers
_aten = torch.ops.aten
_MOVES = (_aten._to_copy.default, _aten.copy_.default)
_BY_INDEX = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)


class Elsewhere(Tensor):
    """A tensor on the second device; `held` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    __format__ = object.__format__

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def is_meta(self) -> bool:
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()


class _Filled(TorchFunctionMode):
    """Makes tensors of Python numbers on the CPU first: torch, which knows `DEVICE` otherwise, would lose them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs.get("device", "cpu"))
        if func is Tensor.__getitem__ and isinstance(args[0], Elsewhere):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(part) if isinstance(part, list) else part for part in index))
        return func(*args, **kwargs)


class _Watch(TorchDispatchMode):
    """Makes what is asked for on the device there, and counts what a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _run(func, args, kwargs or {})
        read = any(isinstance(arg, Elsewhere) for arg in args) and not isinstance(found, Elsewhere)
        if read and func is not _aten.copy_.default:
            self.waits[str(func)] += 1
        return found


@contextmanager
def elsewhere() -> Iterator[Counter[str]]:
    """In the block `DEVICE` is a device; gives {operation: how often a number was read back from it}.

    Attention is the plain formula, which is one on all devices: run what is compared within it as well.
    """
    with sdpa_kernel(SDPBackend.MATH), _Filled(), _Watch() as watch:
        yield watch.waits


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, form = tree_flatten((args, kwargs))
    there = any(isinstance(each, Elsewhere) for each in flat)
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if there and func not in _MOVES:
        _check(func, args, flat)
    if asked is not None and asked.type == DEVICE.type:
        if (generator := kwargs.get("generator")) is not None:
            raise RuntimeError(f"{func}: a generator of {generator.device} for a tensor elsewhere")
        there = True
    elif asked is not None or (func is _aten.copy_.default and not isinstance(args[0], Elsewhere)):
        there = False
    inside = [each.held if isinstance(each, Elsewhere) else each for each in flat]
    outer = {id(inner): each for inner, each in zip(inside, flat, strict=True) if isinstance(each, Tensor)}
    assert not any(isinstance(each, Tensor) and each.is_meta for each in inside), f"{func}: a tensor without numbers"
    args, kwargs = tree_unflatten(inside, form)
    if asked is not None:
        kwargs["device"] = torch.device("cpu") if asked.type == DEVICE.type else asked

    def placed(tensor: Tensor) -> Tensor:
        if (given := outer.get(id(tensor))) is not None:
            if isinstance(given, Elsewhere) and given.shape != tensor.shape:
                raise NotImplementedError(f"{func} changes the shape of a tensor in place")
            return given
        return Elsewhere(tensor) if there else tensor

    return tree_map_only(Tensor, placed, func(*args, **kwargs))


def _check(func: Any, args: Any, flat: list[Any]) -> None:
    here = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, Elsewhere)]
    if func in _BY_INDEX and isinstance(args[0], Elsewhere):
        here = [each for each in here if not any(each is index for index in args[1])]
    written = func._schema.is_mutable and not isinstance(args[0], Elsewhere)
    if written or any(each.ndim or torch.Tag.pointwise not in func.tags for each in here):
        shapes = ", ".join(f"{tuple(each.shape)} {each.dtype}" for each in here)
        raise RuntimeError(f"{func}: tensors of the CPU ({shapes}) among those of another device")
