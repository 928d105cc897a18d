"""Replaying one module's output. All rows of a call go through it or none; images that were not due keep what they had.

A module may be called several times within a call of the network: chunked feed-forward layers and sliding windows over
frames are. Where these are given parts of the batch, in which branches cannot be told apart, all rows together have
one entry, which only the same rows find.

Where one call serves several steps (`state.span`), it is computed for all of them or for none: no call reaches over a
step at which a rule turns. Nobody plans for a miss of a new size or branch: then the first of the steps is kept, and
replayed for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.ownership import Form, own, put_together, taken_apart
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import Kept, Place, Rows, laid_over, replayed, take
from postdiff.engine.replay.rules import Due
from postdiff.engine.rows import join_rows, rows_of_step, split_rows
from postdiff.engine.state import State

__all__ = ["Merge", "ModulePiece"]

# ({branch: tensor}, step, guidance scale) -> {branch: tensor}, what is kept in their place.
Merge = Callable[[dict[Any, Tensor], int, float], dict[Any, Tensor]]


class ModulePiece:
    """A module, in one run.

    Args:
        name: prefix of the counters in `state.counts`.
        module: its own name, for messages.
        fill: one that does not read the input.
        merge: turns the branches' fresh outputs into what is kept.
        state: of the run.
    """

    due: Due  # known when the run begins

    def __init__(self, name: str, module: str, fill: Fill, merge: Merge | None, state: State) -> None:
        self.name, self.module, self.fill, self.merge, self.state = name, module, fill, merge, state
        self._hits, self._misses = f"{name} hits", f"{name} misses"
        self._places: dict[tuple[tuple[int, int], int], Place] = defaultdict(Place)
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
        place = self._places[state.size, self._nth]
        kept = self._known(place)
        if kept is not None:
            state.counts[self._hits] += 1
            return put_together(replayed(self.fill, kept, [], state), kept[0].form)
        state.counts[self._misses] += 1
        images = self._images_due(place)
        output = forward(*args, **kwargs)
        if images != {*state.images}:
            return self._some(place, output, images)
        self._write(place, output)
        if self._steps() < state.span and (kept := self._known(place)) is not None:
            return put_together(replayed(self.fill, kept, [], state), kept[0].form)
        return output

    def _images_due(self, place: Place) -> set[int]:
        """All of them, unless the network was called for some alone before."""
        state = self.state
        if len(place.groups) < 2 or self.merge is not None or self._in_parts or state.span > 1:
            return {*state.images}
        return place.due_images(state.rows, self.due, state.index)

    def _some(self, place: Place, output: Any, images: set[int]) -> Any:
        """A fresh output for these images, and what is kept for the others, as if each had been called for alone."""
        state, rows, of = self.state, self.state.rows, len(self.state.rows)
        computed = [i for i in range(of) if rows[i][1] in images]
        rest = [i for i in range(of) if rows[i][1] not in images]
        tensors, form = taken_apart(output)
        kept = place.find(tuple(rows[i] for i in rest))
        assert kept is not None, "what is not kept is due"
        given = replayed(self.fill, kept, [], state)
        fresh = [take(tensor, computed, of) for tensor in own(tensors)]
        place.write(self.fill, tuple(rows[i] for i in computed), [], fresh, state.index, form)
        return put_together(
            [laid_over(tensor, rest, of, part) for tensor, part in zip(tensors, given, strict=True)], form
        )

    def holds(self) -> bool:
        """Whether the module would be replayed now."""
        return self._known(self._places[self.state.size, 0]) is not None

    def _known(self, place: Place) -> list[Kept] | None:
        state, due = self.state, self.due
        if place.unmerged is not None:
            if due(place.unmerged.written, state.index):
                return None
            self._settle(place)
        key = state.branches, state.images
        kept = place.views.get(key)
        if kept is None or self._in_parts:
            kept = place.find(self._rows())
            if kept is None:
                return None
            place.views[key] = kept
        for group in kept:
            if due(group.written, state.index):
                return None
        return kept

    def _rows(self) -> tuple[Any, ...]:
        """What the rows of a call are known by."""
        state = self.state
        if not self._in_parts:
            return state.rows
        if state.span > 1 or (self.merge is not None and len(state.branches) > 1):
            parts = "steps" if state.span > 1 else "guidance branches"
            remedy = "use decoding='sequential'" if state.span > 1 else "leave this method out"
            raise UsageError(
                f"{self.name}: the network calls '{self.module}' several times for parts of its batch, whose {parts} "
                f"cannot be told apart; turn off forward chunking and split inference, or {remedy}"
            )
        return ((state.branches, state.images),)

    def _steps(self) -> int:
        """How many steps of a call that is a miss are what they are computed to be: all, or, unplanned, the first."""
        state = self.state
        return state.span if state.span == 1 or self.due(state.index, state.index + state.span - 1) else 1

    def _write(self, place: Place, output: Any) -> None:
        state = self.state
        tensors, form = taken_apart(output)
        if tensors and not self._in_parts and _of_a_part(tensors[0], self._nth, state):
            self._regard_as_parts()
        tensors, rows, steps = own(tensors), self._rows(), self._steps()
        for i in range(steps) if self.fill.recalls else (steps - 1,):
            fresh = rows_of_step(tensors, len(state.branches), state.span, i)
            if self.merge is None:
                place.write(self.fill, rows, [], fresh, state.index + i, form)
                continue
            if place.unmerged is not None and place.unmerged.of != (state.branches, state.images):
                self._settle(place)
            of = state.branches, state.images
            place.unmerged = _Unmerged(fresh, state.index + i, of, state.guidance_scale, form)

    def _settle(self, place: Place) -> None:
        """Merge what was not read before."""
        fresh: _Unmerged = place.unmerged
        (branches, images), tensors = fresh.of, fresh.tensors
        assert self.merge is not None
        apart = [
            dict(zip(branches, each, strict=True)) for each in zip(*split_rows(tensors, len(branches)), strict=True)
        ]
        merged = [self.merge(one, fresh.written, fresh.scale) for one in apart]
        if any(one is not other for one, other in zip(merged, apart, strict=True)):
            branches, tensors = tuple(merged[0]), [torch.cat(list(one.values())) for one in merged]
        place.unmerged = None
        rows: Rows = tuple((branch, image) for branch in branches for image in images)
        place.write(self.fill, (fresh.of,) if self._in_parts else rows, [], tensors, fresh.written, fresh.form)

    def _regard_as_parts(self) -> None:
        """What was kept in this call of the network, and taken for whole branches, is of all of them together."""
        places = [self._places[self.state.size, nth] for nth in range(self._nth)]
        for place in places:
            if place.unmerged is not None:
                self._settle(place)
        self._in_parts = True
        rows = self._rows()  # raises where that will not do
        for place in places:
            kept = place.find(self.state.rows)
            assert kept is not None, "written in this call"
            value = join_rows([group.value for group in kept])
            place.groups, place.views = [Kept(value, kept[0].written, rows, kept[0].form)], {}


class _Unmerged(NamedTuple):
    tensors: list[Tensor]
    written: int
    of: tuple[tuple[str, ...], tuple[int, ...]]  # branches and images
    scale: float
    form: Form


def _of_a_part(tensor: Tensor, nth: int, state: State) -> bool:
    """Whether an output is of some rows only, so that it does not fall into branches, steps and images.

    A batch of images cut into parts has too few rows for that. Inside a network for videos a row may be a frame or a
    place as well, and a part may have any number; there a second call of one module is reason enough to think so.
    """
    first = state.first_rows
    if nth and first is not None and first.ndim > 4:
        return True
    return tensor.ndim == 0 or tensor.shape[0] % (len(state.branches) * state.span * max(1, len(state.images))) != 0
