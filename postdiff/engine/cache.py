"""One cache for every method that replays a module's output instead of computing it.

An entry belongs to one latent size and one guidance branch. So a change of resolution is an ordinary miss, and
dropping the unconditional branch leaves the conditional entries valid: methods need not know of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.state import State

__all__ = ["ModuleCache", "Refresh", "join_rows", "split_rows"]

Branches = dict[str, Any]
Key = tuple[str, tuple[int, int], str]


class Refresh:
    """Decides when an entry is too old: when a scheduled step has passed since it was written.

    Not "step modulo interval": after a miss between two scheduled steps the schedule keeps its phase.
    """

    def __init__(self, scheduled: Iterable[int]) -> None:
        """Schedule exactly these steps."""
        self.scheduled = frozenset(scheduled)

    @classmethod
    def every(cls, interval: int, steps: int, restarts: Iterable[int] = ()) -> Refresh:
        """Schedule 0, interval, 2 interval, ... up to `steps`; the count begins anew at each of `restarts`."""
        begins = sorted({0, *restarts})
        ends = [*begins[1:], steps]
        return cls(step for begin, end in zip(begins, ends, strict=True) for step in range(begin, end, interval))

    def due(self, written: int, now: int) -> bool:
        """Whether an entry written at step `written` must be computed again at step `now`."""
        return any(written < step <= now for step in self.scheduled)


@dataclass
class _Entry:
    value: Any
    written: int


class ModuleCache:
    """Outputs of modules, kept by (module name, latent size, branch).

    Args:
        name: prefix of the counters in `state.counts`.
        due: `due(written, now) -> bool`, true when an entry of step `written` must be recomputed at step `now`.
        merge: optional; turns the fresh outputs {branch: output} into those to be stored.
    """

    def __init__(
        self,
        name: str,
        due: Callable[[int, int], bool],
        merge: Callable[[Branches, int], Branches] | None = None,
    ) -> None:
        self.name = name
        self.due = due
        self.merge = merge
        self._entries: dict[Key, _Entry] = {}

    def around(self, module: str, state: State) -> Callable[..., Any]:
        """The function to `intercept` the module's forward with."""

        def call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            stored = self._read(module, state)
            if stored is not None:
                state.counts[f"{self.name} hits"] += 1
                return join_rows([stored[branch] for branch in state.branches])
            state.counts[f"{self.name} misses"] += 1
            output = forward(*args, **kwargs)
            self._write(module, state, output)
            return output

        return call

    def _read(self, module: str, state: State) -> Mapping[str, Any] | None:
        found = {}
        for branch in state.branches:
            entry = self._entries.get((module, state.size, branch))
            if entry is None or self.due(entry.written, state.index):
                return None
            found[branch] = entry.value
        return found

    def _write(self, module: str, state: State, output: Any) -> None:
        parts = split_rows(output, len(state.branches))
        fresh = dict(zip(state.branches, parts, strict=True))
        if self.merge is not None:
            fresh = self.merge(fresh, state.index)
        for branch, value in fresh.items():
            self._entries[module, state.size, branch] = _Entry(value, state.index)


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
