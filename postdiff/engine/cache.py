"""One cache for every method that replays a module's output instead of computing it.

An entry belongs to one latent size and one guidance branch. So a change of resolution is an ordinary miss, and
dropping the unconditional branch leaves the conditional entries valid: methods need not know of each other. It also
belongs to one of the calls of its module within a call of the network: chunked feed-forward layers and sliding windows
over frames make several. Where these are given parts of the batch, in which branches cannot be told apart, all branches
together have one entry, which only the same branches find.

Where one network call serves several steps (`state.span`), an entry stands for all of them or for none: steps between
which a method turns from computing to replaying are `state.boundaries`, and no call reaches over one. Nobody plans for
a miss of a new size or branch: then the first of the steps is kept, and replayed for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.ownership import Form, own, put_together, taken_apart
from postdiff.engine.rows import join_rows, rows_of_step, split_rows, tile_rows
from postdiff.engine.state import State

__all__ = ["CacheEntry", "ModuleCache", "Place", "Refresh"]

Branches = dict[Any, Tensor]
Place = tuple[str, int]  # a module, and which of its calls within a call of the network, from 0
Label = str | tuple[str, ...]  # whose rows: of one guidance branch, or of all of a call together
Key = tuple[Place, tuple[int, int], Label]


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
class CacheEntry:
    """What is kept of one call of a module for one size and branch, and the step it is of.

    Attributes:
        value: the branch's rows of every tensor in the output.
        written: the step.
        form: how the output is made of its tensors.
        whole: branches and tensors that the value is a piece of, shared by their entries; None if there is no such.
    """

    value: list[Any]
    written: int
    form: Form
    whole: tuple[tuple[str, ...], list[Tensor]] | None = None


class ModuleCache:
    """Outputs of modules, kept by module name, call, latent size and branch.

    What is kept is a copy, and so is what is handed out: see `ownership`.

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
        self._entries: dict[Key, CacheEntry] = {}
        self._parted: set[str] = set()  # modules that are given parts of the batch

    def around(self, module: str, state: State) -> Callable[..., Any]:
        """The function to `intercept` the module's forward with.

        Raises:
            UsageError: the module is given parts of the batch, and what is stored needs its branches or steps apart.
        """
        network_call, nth = -1, 0

        def call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal network_call, nth
            nth = nth + 1 if state.network_call == network_call else 0
            network_call = state.network_call
            place = (module, nth)
            stored = self._read(place, state)
            if stored is not None:
                state.counts[f"{self.name} hits"] += 1
                return self._joined(stored, state)
            state.counts[f"{self.name} misses"] += 1
            output = forward(*args, **kwargs)
            self._write(place, state, output)
            stored = None if self._steps(state) == state.span else self._read(place, state)
            return output if stored is None else self._joined(stored, state)

        return call

    def holds(self, module: str, state: State) -> bool:
        """Whether the module would be replayed now."""
        return self._read((module, 0), state) is not None

    def _steps(self, state: State) -> int:
        """How many steps of a call that is a miss are what they are computed to be: all, or, unplanned, the first."""
        return state.span if self.due(state.index, state.index + state.span - 1) else 1

    def _read(self, place: Place, state: State) -> list[CacheEntry] | None:
        found = []
        for label in self._labels(place, state):
            entry = self._entries.get((place, state.size, label))
            if entry is None or self.due(entry.written, state.index):
                return None
            found.append(entry)
        return found

    def _labels(self, place: Place, state: State) -> tuple[Label, ...]:
        """Whose rows the entries of a call hold."""
        module, _ = place
        if module not in self._parted:
            return state.branches
        if state.span > 1 or (self.merge is not None and len(state.branches) > 1):
            parts = "steps" if state.span > 1 else "guidance branches"
            remedy = "use decoding='sequential'" if state.span > 1 else "leave this method out"
            raise UsageError(
                f"{self.name}: the network calls '{module}' several times for parts of its batch, whose {parts} "
                f"cannot be told apart; turn off forward chunking and split inference, or {remedy}"
            )
        return (state.branches,)

    def _joined(self, stored: list[CacheEntry], state: State) -> Any:
        whole = stored[0].whole
        if whole is not None and whole[0] == state.branches and state.span == 1 and _of_one_output(stored):
            tensors = own(whole[1])  # joining the pieces would copy every one
        elif len(stored) == 1:
            tensors = self._replayed(stored[0], state)
        else:
            tensors = [
                torch.cat(each) for each in zip(*[self._replayed(entry, state) for entry in stored], strict=True)
            ]
        return put_together(tensors, stored[0].form)

    def _replayed(self, entry: CacheEntry, state: State) -> list[Tensor]:
        """One branch's rows for all steps of the present call, to be written into."""
        if state.span == 1:
            return own(entry.value)
        return [tile_rows(tensor, 1, state.span) for tensor in entry.value]

    def _write(self, place: Place, state: State, output: Any) -> None:
        tensors, form = self._kept(place, state, output)
        labels, steps = self._labels(place, state), self._steps(state)
        last, newest = state.index + steps - 1, rows_of_step(tensors, len(state.branches), state.span, steps - 1)
        pieces = dict(zip(labels, split_rows(newest, len(labels)), strict=True))
        whole = (state.branches, newest) if labels == state.branches else None
        if self.merge is not None:
            fresh = [dict(zip(pieces, each, strict=True)) for each in zip(*pieces.values(), strict=True)]
            merged = [self.merge(one, last) for one in fresh]
            if any(one is not other for one, other in zip(merged, fresh, strict=True)):
                pieces, whole = {label: [one[label] for one in merged] for label in merged[0]}, None
        for label, value in pieces.items():
            self._entries[place, state.size, label] = CacheEntry(value, last, form, whole)

    def _kept(self, place: Place, state: State, output: Any) -> tuple[list[Tensor], Form]:
        """Own copies of an output's tensors; on the way, see whether they are of a part of the batch."""
        tensors, form = taken_apart(output)
        module, nth = place
        if tensors and module not in self._parted and _of_a_part(tensors[0], nth, state):
            self._parted.add(module)
            self._labels(place, state)  # raises where that will not do
            self._regard_as_parts(module, nth, state)
        return own(tensors), form

    def _regard_as_parts(self, module: str, until: int, state: State) -> None:
        """What was stored in this call of the network, and taken for whole branches, belongs to all of them."""
        for nth in range(until):
            place, size = (module, nth), state.size
            each = [self._entries.pop((place, size, branch)) for branch in state.branches]
            value = self._together([entry.value for entry in each])
            self._entries[place, size, state.branches] = CacheEntry(value, each[0].written, each[0].form)

    def _together(self, values: list[list[Any]]) -> list[Any]:
        joined: list[Any] = join_rows(values)
        return joined


def _of_one_output(stored: list[CacheEntry]) -> bool:
    return all(entry.whole is stored[0].whole for entry in stored)


def _of_a_part(tensor: Tensor, nth: int, state: State) -> bool:
    """Whether an output is of some rows only, so that it does not fall into branches, steps and samples.

    A batch of images cut into parts has too few rows for that. Inside a network for videos a row may be a frame or a
    place as well, and a part may have any number; there a second call of one module is reason enough to think so.
    """
    first = state.first_rows
    samples = 1 if first is None else len(first)
    if nth and first is not None and first.ndim > 4:
        return True
    return tensor.ndim == 0 or tensor.shape[0] % (len(state.branches) * state.span * samples) != 0
