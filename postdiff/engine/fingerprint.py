"""Whether somebody has changed a network between two of its calls.

A pipeline's callback may: scales of adapters, attention processors, FreeU and LoRA are not among a call's arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import FunctionType
from typing import Any

from torch import Tensor, nn

__all__ = ["Fingerprint"]

_EVERY_MODULE_HAS = frozenset(vars(nn.Module())) - {"training"}
_HELD = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BY_IDENTITY = (type, FunctionType, partial, nn.Module, Tensor)
_PLAIN = (int, float, str)
_GONE = object()


class Fingerprint:
    """Attributes, parts, hooks and weights of modules at one moment.

    Numbers and texts are compared by value, tensors by identity and by how often they were written to, lists and dicts
    item by item, other objects (attention processors) by their own attributes.

    Args:
        modules: those that matter, without the modules inside them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._sizes: list[tuple[Any, int]] = []
        self._same: list[tuple[dict[str, Any], str, Any]] = []
        self._contents: list[tuple[Any, list[Any]]] = []
        self._writes: list[tuple[Tensor, int]] = []
        for module in modules:
            inside = vars(module)
            self._note(inside, [name for name in inside if name not in _EVERY_MODULE_HAS], deep=True)
            for name in _HELD:
                self._note(inside[name], inside[name], deep=False)
            self._sizes += [(inside[name], len(inside[name])) for name in _HOOKS]

    def holds(self) -> bool:
        """Whether all is as it was."""
        return (
            all(len(table) == size for table, size in self._sizes)
            and all(_same(table.get(name, _GONE), value) for table, name, value in self._same)
            and all(tensor._version == version for tensor, version in self._writes)
            and all(_same_items(_items(now), kept) for now, kept in self._contents)
        )

    def _note(self, table: dict[str, Any], names: Iterable[str], deep: bool) -> None:
        self._sizes.append((table, len(table)))
        for name in names:
            value = table[name]
            self._same.append((table, name, value))
            if isinstance(value, Tensor):
                if not value.is_inference():
                    self._writes.append((value, value._version))
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
