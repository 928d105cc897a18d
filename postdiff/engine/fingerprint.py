"""Whether somebody has changed, between two calls of a network, what it is called with or the network itself.

A pipeline's callback may: prompts are arguments of a call, but scales of adapters, attention processors, FreeU and LoRA
are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import is_
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from postdiff.engine.ownership import same_memory

__all__ = ["Fingerprint", "noted", "unchanged"]

_EVERY_MODULE_HAS = frozenset(vars(nn.Module())) - {"training"}
_HELD = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BY_IDENTITY = (type, FunctionType, partial, nn.Module, Tensor)
_PLAIN = (int, float, str)


class Fingerprint:
    """Attributes, parts, hooks and weights of modules at one moment.

    Numbers and texts are compared by value, tensors by identity and by how often they were written to, lists and dicts
    item by item, other objects (attention processors) by their own attributes.

    Args:
        modules: those that matter, without the modules inside them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._tables: list[Any] = []
        self._places: list[tuple[dict[str, Any], str]] = []
        self._values: list[Any] = []
        self._contents: list[tuple[Any, list[Any]]] = []
        self._tensors: list[Tensor] = []
        for module in modules:
            inside = vars(module)
            self._note(inside, [name for name in inside if name not in _EVERY_MODULE_HAS], deep=True)
            for name in _HELD:
                self._note(inside[name], inside[name], deep=False)
            self._tables += [inside[name] for name in _HOOKS]
        self._size = sum(map(len, self._tables))
        self._versions = [tensor._version for tensor in self._tensors]

    def holds(self) -> bool:
        """Whether all is as it was."""
        try:
            now = [table[name] for table, name in self._places]
        except KeyError:
            return False
        return (
            (all(map(is_, now, self._values)) or all(map(_same, now, self._values)))
            and sum(map(len, self._tables)) == self._size
            and [tensor._version for tensor in self._tensors] == self._versions
            and all(_same_items(_items(now), kept) for now, kept in self._contents)
        )

    def _note(self, table: dict[str, Any], names: Iterable[str], deep: bool) -> None:
        self._tables.append(table)
        for name in names:
            value = table[name]
            self._places.append((table, name))
            self._values.append(value)
            if isinstance(value, Tensor):
                if not value.is_inference():
                    self._tensors.append(value)
            elif isinstance(value, list | dict):
                self._contents.append((value, _items(value)))
            elif deep and name != "forward" and hasattr(value, "__dict__") and not isinstance(value, _BY_IDENTITY):
                self._note(vars(value), vars(value), deep=False)


def _items(value: Any) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else list(value)


def _same_items(now: list[Any], then: list[Any]) -> bool:
    return len(now) == len(then) and all(map(_same, now, then))


def _same(now: Any, then: Any) -> bool:
    return now is then or (isinstance(now, _PLAIN) and isinstance(then, _PLAIN) and now == then)


@dataclass(frozen=True)
class _Seen:
    """A tensor and how often it had been written to; a copy of one that does not count that (in inference mode)."""

    tensor: Tensor
    version: int | None


def noted(value: Any) -> Any:
    """A nested value as it is now, for `unchanged`."""
    if isinstance(value, Tensor):
        return _Seen(value.clone(), None) if value.is_inference() else _Seen(value, value._version)
    if isinstance(value, Mapping):
        return {key: noted(item) for key, item in value.items()}
    return [noted(item) for item in value] if isinstance(value, tuple | list) else value


def unchanged(now: Any, then: Any) -> bool:
    """Whether a nested value is what it was when it was `noted`: tensors with the same values, all else the same."""
    if isinstance(then, _Seen):
        return isinstance(now, Tensor) and _unchanged(now, then.tensor, then.version)
    if isinstance(now, Mapping):
        same_keys = isinstance(then, dict) and now.keys() == then.keys()
        return same_keys and all(unchanged(item, then[key]) for key, item in now.items())
    if isinstance(now, tuple | list):
        return isinstance(then, list) and len(now) == len(then) and all(map(unchanged, now, then))
    return _same(now, then)


def _unchanged(now: Tensor, then: Tensor, version: int | None) -> bool:
    if (now.shape, now.dtype, now.device) != (then.shape, then.dtype, then.device):
        return False
    if version is not None:
        if then._version != version:
            return False
        if now is then or same_memory(now, then):  # comparing values would wait for a GPU
            return True
    return now.is_meta or torch.equal(now, then)
