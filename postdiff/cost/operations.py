"""Operations as they are executed, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from postdiff.cost.tally import Work
from postdiff.engine.errors import UsageError

__all__ = ["HoldsValues", "Known", "OperationCounter", "described", "remade", "shapes"]

_DENSE = ("convolution", "_convolution", "mm", "addmm")
_ATTENTION = ("bmm", "baddbmm")


# What a call costs, if anything, and what it returns, as `described`.
Known = dict[Hashable, tuple[Work | None, Any]]


class OperationCounter(TorchDispatchMode):
    """Inside the block `with OperationCounter(add):` the cost of every operation that has one is handed to `add`.

    The formulas are torch's own, those of its `FlopCounterMode`. Unlike that one it does not work out anew what
    becomes of the same shapes on the meta device. Tensors hold no values there, so an operation that was executed
    once on certain shapes costs the same again and returns the same shapes: seconds become tenths.

    Args:
        add: takes work as it is done.
        known: operations and shapes executed so far; given again, it carries them from one block to the next.

    Raises:
        UsageError: an operation with a known cost that belongs to no convention.
    """

    def __init__(self, add: Callable[[Work], object], known: Known | None = None) -> None:
        super().__init__()
        self._add = add
        self._known: Known = {} if known is None else known
        self._operations: dict[Any, _Operation] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = self._operations.get(func)
        if operation is None:
            operation = self._operations[func] = _Operation(func)
        if operation.plain_view:
            return func(*args, **kwargs)
        key: Hashable = None
        if operation.makes_new_tensors:
            with suppress(HoldsValues):
                key = func, shapes(args), shapes(kwargs)
        if key in self._known:
            work, outcome = self._known[key]
            if work:
                self._add(work)
            return remade(outcome)
        if operation.composite:
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        work = operation.work(args, kwargs, result)
        if work:
            self._add(work)
        if key is not None and (outcome := described(result)) is not None:
            self._known[key] = work, outcome
        return result


class _Operation:
    """What is worth knowing of an operator.

    Attributes:
        composite: it consists of others. Where there is no autograd, as in inference mode, it arrives in one piece.
        makes_new_tensors: it neither changes a tensor nor returns a view of one: all it does is in what it returns.
        plain_view: it has neither a cost nor a result worth keeping, as most operations.
    """

    def __init__(self, func: Any) -> None:
        self._name = func._overloadpacket.__name__
        self._formula = flop_registry.get(func._overloadpacket)
        self.composite = self._formula is None and func._can_decompose()
        places = (*func._schema.arguments, *func._schema.returns)
        self.makes_new_tensors = not self.composite and not any(place.alias_info for place in places)
        self.plain_view = not (self._formula or self.composite or self.makes_new_tensors)

    def work(self, args: Any, kwargs: Any, result: Any) -> Work | None:
        """MACs of a call; None if the operator has no cost."""
        # torch counts two operations a multiply-accumulate.
        macs = self._formula(*args, **kwargs, out_val=result) // 2 if self._formula else 0
        if not macs:
            return None
        if self._name in _DENSE:
            return Work(macs, macs, macs)
        if self._name in _ATTENTION or "attention" in self._name:
            # Of a pair of products fvcore sees one; where they come one by one, half of each stands for that.
            return Work(0, macs // 2, macs)
        raise UsageError(f"operation '{self._name}' is in no MAC convention; add it to postdiff/cost/operations.py")


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


def described(result: Any) -> Any:
    """Tensors and tuples of them as data; None if there is anything else."""
    if isinstance(result, Tensor):
        return (result.shape, result.stride(), result.dtype) if result.is_meta else None
    if type(result) is not tuple:
        return None
    parts = [described(part) for part in result]
    return None if None in parts else parts


def remade(outcome: Any) -> Any:
    """New tensors each time: whoever takes them may change their shape in place."""
    if isinstance(outcome, list):
        return tuple([remade(part) for part in outcome])
    size, strides, dtype = outcome
    return torch.empty_strided(size, strides, dtype=dtype, device="meta")
