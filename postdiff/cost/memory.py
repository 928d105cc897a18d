"""Peak memory of a call: what a GPU's allocator reports, or on a CPU the bytes of all tensors alive at one moment."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["peak_memory"]


def peak_memory(call: Callable[[], object], device: str = "cpu") -> int:
    """The most memory that tensors take at one moment of a call, weights included.

    On a GPU it is what its allocator hands out at most, as papers report it; whatever else lies there counts too. On a
    CPU it is counted from the storages that the call's operations read and make: scratch space inside an operation is
    not seen, and the size of the process, which depends on what ran before, is left alone. Compare values of one kind
    of device only. Never time a call that is measured so.

    Args:
        call: what to measure; it runs once. It must be warm, as a timed call must be.
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        Bytes.
    """
    gc.collect()  # what an earlier call left in cycles is not this one's
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    with _Storages() as seen:
        call()
    return seen.found + seen.peak


@dataclass
class _Block:
    """Memory and the storages that share it: those of a tensor and its copies, while nobody writes to one of them."""

    size: int
    holders: int = 0


class _Storages(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end.

    Attributes:
        found: bytes of what was there before: weights and inputs. It is taken to stay for the whole call.
        peak: most bytes of what was made since, at one moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = self.peak = self._made = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._blocks: dict[int, _Block] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in self._new((args, *kwargs.values())):
            self.found += storage.nbytes()
            self._follow(storage, _Block(0))
        output = function(*args, **kwargs)
        if function is torch.ops.aten._lazy_clone.default:
            shared = self._blocks[id(args[0].untyped_storage())] if args[0].is_cpu else _Block(0)
            for storage in self._new(output):
                self._follow(storage, shared)
        for storage in self._new(output):
            self._follow(storage, self._block(storage))
        if function._schema.is_mutable:
            self._part((args, *kwargs.values()))
        self.peak = max(self.peak, self._made)
        return output

    def _new(self, values: Any) -> list[torch.UntypedStorage]:
        """Storages met for the first time, each once."""
        storages = {id(storage): storage for storage in map(Tensor.untyped_storage, _tensors(values))}
        return [storage for key, storage in storages.items() if key not in self._alive]

    def _block(self, storage: torch.UntypedStorage) -> _Block:
        self._made += storage.nbytes()
        return _Block(storage.nbytes())

    def _part(self, values: Any) -> None:
        """Who writes to shared memory gets memory of its own."""
        for tensor in _tensors(values):
            key = id(tensor.untyped_storage())
            if self._blocks[key].holders > 1 and not torch._C._is_cow_tensor(tensor):  # type: ignore[attr-defined]
                self._let_go(key)
                self._blocks[key] = self._block(tensor.untyped_storage())
                self._blocks[key].holders = 1

    def _follow(self, storage: torch.UntypedStorage, block: _Block) -> None:
        key = id(storage)
        block.holders += 1

        def ended(_: Any) -> None:
            self._let_go(key)
            del self._alive[key]

        self._alive[key], self._blocks[key] = weakref.ref(storage, ended), block

    def _let_go(self, key: int) -> None:
        block = self._blocks.pop(key)
        block.holders -= 1
        if not block.holders:
            self._made -= block.size


def _tensors(values: Any) -> Iterator[Tensor]:
    """Those on the CPU among the arguments or results of an operation; quicker than a search of any nesting."""
    if isinstance(values, Tensor):
        if values.is_cpu:
            yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
