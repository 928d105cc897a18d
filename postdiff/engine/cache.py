"""One cache for every method that replays a module's output instead of computing it.

An entry belongs to one latent size and one guidance branch. So a change of resolution is an ordinary miss, and
dropping the unconditional branch leaves the conditional entries valid: methods need not know of each other.

Where one network call serves several steps (`state.span`), an entry stands for all of them or for none: steps between
which a method turns from computing to replaying are `state.boundaries`, and no call reaches over one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from postdiff.engine.rows import join_rows, rows_of_step, split_rows, tile_rows
from postdiff.engine.state import State

__all__ = ["Entry", "ModuleCache", "Refresh"]

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

    def turns(self, steps: int) -> set[int]:
        """Steps at which computing turns to replaying or back: what a method adds to `state.boundaries`."""
        return {step for step in range(1, steps) if (step in self.scheduled) != (step - 1 in self.scheduled)}

    def due(self, written: int, now: int) -> bool:
        """Whether an entry written at step `written` must be computed again at step `now`."""
        return any(written < step <= now for step in self.scheduled)


@dataclass
class Entry:
    """What is kept of one module for one size and branch, and the step it is of.

    Attributes:
        value: the branch's rows.
        written: the step.
        whole: branches and output that the value is a piece of, shared by their entries; None if there is no such.
    """

    value: Any
    written: int
    whole: tuple[tuple[str, ...], Any] | None = None


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
        self._entries: dict[Key, Entry] = {}

    def around(self, module: str, state: State) -> Callable[..., Any]:
        """The function to `intercept` the module's forward with."""

        def call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            stored = self._read(module, state)
            if stored is not None:
                state.counts[f"{self.name} hits"] += 1
                return self._joined(stored, state)
            state.counts[f"{self.name} misses"] += 1
            output = forward(*args, **kwargs)
            self._write(module, state, output)
            return output

        return call

    def holds(self, module: str, state: State) -> bool:
        """Whether the module would be replayed now."""
        return self._read(module, state) is not None

    def _read(self, module: str, state: State) -> Mapping[str, Entry] | None:
        found = {}
        for branch in state.branches:
            entry = self._entries.get((module, state.size, branch))
            if entry is None or self.due(entry.written, state.index):
                return None
            found[branch] = entry
        return found

    def _joined(self, stored: Mapping[str, Entry], state: State) -> Any:
        whole = stored[state.branches[0]].whole
        of_one_output = whole is not None and all(entry.whole is whole for entry in stored.values())
        if whole is not None and of_one_output and whole[0] == state.branches and state.span == 1:
            return _handed_out(whole[1])  # joining the pieces would copy every tensor
        return join_rows([self._replayed(stored[branch], state) for branch in state.branches])

    def _replayed(self, entry: Entry, state: State) -> Any:
        """One branch's rows for all steps of the present call."""
        return tile_rows(entry.value, 1, state.span)

    def _write(self, module: str, state: State, output: Any) -> None:
        branches, last = state.branches, state.index + state.span - 1
        newest = rows_of_step(output, len(branches), state.span, -1)
        fresh = dict(zip(branches, split_rows(newest, len(branches)), strict=True))
        merged = fresh if self.merge is None else self.merge(fresh, last)
        whole = (branches, newest) if merged is fresh else None
        for branch, value in merged.items():
            self._entries[module, state.size, branch] = Entry(value, last, whole)


def _handed_out(value: Any) -> Any:
    """The same tensors in containers of their own, which a caller may empty."""
    return type(value)(_handed_out(item) for item in value) if isinstance(value, tuple | list) else value
