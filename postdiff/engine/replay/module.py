"""Replaying one module's output. All rows of a call go through it or none; images that were not due keep what they had.

A module may be called several times within a call of the network: chunked feed-forward layers and sliding windows over
frames are. Where these are given parts of the batch, in which branches cannot be told apart, all rows together have
one entry, which only the same rows find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.ownership import put_together, taken_apart
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import Rows
from postdiff.engine.replay.merged import Merge, MergedPlace
from postdiff.engine.replay.piece import Piece
from postdiff.engine.state import State

__all__ = ["ModulePiece"]


class ModulePiece(Piece):
    """A module, in one run.

    Args:
        name: prefix of the counters in `state.counts`.
        module: its own name, for messages.
        fill: one that does not read the input.
        merge: turns the branches' fresh outputs into what is kept.
        state: of the run.
    """

    def __init__(self, name: str, module: str, fill: Fill, merge: Merge | None, state: State) -> None:
        super().__init__(name, fill, state)
        self.module, self.merge = module, merge
        if merge is not None:
            self._places = defaultdict(lambda: MergedPlace(fill, merge, state))
        self._hits, self._misses = f"{name} hits", f"{name} misses"
        self._shapes: dict[Any, Any] = {}  # {(size, call, row): what the module was given, without the rows}
        self._rows: dict[Any, Rows] = {}  # {(size, call): the rows of the last one}
        self._network_call, self._nth = -1, 0
        self._in_parts = False  # the module is given parts of the batch

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What to `intercept` the module's forward with.

        Raises:
            UsageError: the module is given parts of the batch, and what is kept needs its branches or steps apart.
        """
        state = self.state
        self._nth = self._nth + 1 if state.network_call == self._network_call else 0
        self._network_call = state.network_call
        at, rows = (state.size, self._nth), state.rows
        if self._rows.get(at) is not rows:  # else it is of the length that it was of
            self._rows[at] = rows
            self._forget_what_does_not_fit(at, rows, (*args, *kwargs.values()))
        place = self._places[at]
        kept = place.ready(self._part() if self._in_parts else rows, self.due, state.index)
        if kept is not None:
            state.counts[self._hits] += 1
            return put_together(place.give(kept, [], state), kept[0].form)
        state.counts[self._misses] += 1
        output = forward(*args, **kwargs)
        tensors, form = taken_apart(output)
        if tensors and not self._in_parts and _of_a_part(tensors[0], self._nth, state):
            self._regard_as_parts()
        rows = self._part() if self._in_parts else rows
        found = self.finish(place, rows, self.rows_due(place, rows), [], tensors, form)
        return output if found is tensors else put_together(found, form)

    def _forget_what_does_not_fit(self, at: tuple[Any, int], rows: Rows, given: tuple[Any, ...]) -> None:
        """A text is filled up to the longest of those that are sent along: what is kept may be of another length."""
        shape = next((each.shape[1:] for each in given if isinstance(each, Tensor)), None)
        for row in rows:
            if self._shapes.setdefault((at, row), shape) != shape:
                self._shapes[at, row] = shape
                self._places.pop(at, None)

    def holds(self) -> bool:
        """Whether the module would be replayed now."""
        return self._places[self.state.size, 0].ready(self.state.rows, self.due, self.state.index) is not None

    def _part(self) -> Rows:
        """What the rows of a part of the batch are known by."""
        state = self.state
        if state.span > 1 or (self.merge is not None and len(state.branches) > 1):
            parts = "steps" if state.span > 1 else "guidance branches"
            remedy = "use decoding='sequential'" if state.span > 1 else "leave this method out"
            raise UsageError(
                f"{self.name}: the network calls '{self.module}' several times for parts of its batch, whose {parts} "
                f"cannot be told apart; turn off forward chunking and split inference, or {remedy}"
            )
        return ((state.branches, state.images),)

    def _regard_as_parts(self) -> None:
        """What was kept in this call of the network, and taken for whole branches, is of all of them together."""
        self._in_parts = True
        rows = self._part()  # raises where that will not do
        for nth in range(self._nth):
            place = self._places[self.state.size, nth]
            place.groups, place.views = [group._replace(rows=rows) for group in place.groups], {}


def _of_a_part(tensor: Tensor, nth: int, state: State) -> bool:
    """Whether an output is of some rows only, so that it does not fall into branches, steps and images.

    A batch of images cut into parts has too few rows for that. Inside a network for videos a row may be a frame or a
    place as well, and a part may have any number; there a second call of one module is reason enough to think so.
    """
    first = state.first_rows
    if nth and first is not None and first.ndim > 4:
        return True
    return tensor.ndim == 0 or tensor.shape[0] % (len(state.branches) * state.span * max(1, len(state.images))) != 0
