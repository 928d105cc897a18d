"""What is kept of a piece of a network, row by row: a row is one image in one guidance branch.

Rows that were computed together stay one tensor, and are replayed in one operation, until others of them are wanted.
A row belongs to one size of the latents and to one of the calls of its piece within a call of the network. So a change
of size, a branch or an image that is new is an ordinary miss, and what is dropped leaves the others valid: methods need
not know of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from postdiff.engine.ownership import Form
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.rules import Due
from postdiff.engine.rows import map_tensors, rows_of_step
from postdiff.engine.state import State

__all__ = ["Kept", "Place", "Rows", "laid_over", "take"]

Rows = tuple[Any, ...]  # (guidance branch, image), each
Tensors = list[Tensor]


class Kept(NamedTuple):
    """What is kept of rows that were computed together.

    Attributes:
        value: as the fill keeps it; every tensor holds the rows one after the other.
        written: the step.
        rows: of which it is.
        form: how the output is made of its tensors.
    """

    value: Any
    written: int
    rows: Rows
    form: Form = 0

    def part(self, begin: int, end: int) -> Kept:
        """Of some of the rows, which follow one another."""
        if end - begin == len(self.rows):
            return self
        value = map_tensors(lambda tensor: take(tensor, range(begin, end), len(self.rows)), self.value)
        return Kept(value, self.written, self.rows[begin:end], self.form)


class Place:
    """All that is kept at one size of the latents of one call of a piece within a call of the network.

    Args:
        fill: how it is kept and given again.

    Attributes:
        groups: rows that were computed together, newest last.
        views: {rows: what is kept of them, in order}, remembered.
    """

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self.groups: list[Kept] = []
        self.views: dict[Rows, list[Kept]] = {}

    def find(self, rows: Rows) -> list[Kept] | None:
        """What is kept of these rows, cut where they were computed apart; None unless it is of all of them."""
        found = self.views.get(rows)
        if found is None:
            pieces = [group for group, _ in self.pieces(rows)]
            found = [group for group in pieces if group is not None]
            if len(found) < len(pieces):
                return None
            self.views[rows] = found
        return found

    def ready(self, rows: Rows, due: Due, now: int) -> list[Kept] | None:
        """The same, but None also where a row is to be computed again."""
        kept = self.find(rows)
        for group in kept or ():
            if due(group.written, now):
                return None
        return kept

    def pieces(self, rows: Rows) -> list[tuple[Kept | None, list[int]]]:
        """What is kept of these rows, None for some of which nothing is; beside each, which of the rows it is of."""

        if not self.groups or rows == self.groups[-1].rows:
            return [(self.groups[-1] if self.groups else None, [*range(len(rows))])]

        def stands(i: int) -> tuple[int, int]:  # alike for neighbours that were computed as neighbours
            number = next((n for n in reversed(range(len(self.groups))) if rows[i] in self.groups[n].rows), -1)
            return number, i - self.groups[number].rows.index(rows[i]) if number >= 0 else 0

        found: list[tuple[Kept | None, list[int]]] = []
        for (number, before), run in groupby(range(len(rows)), stands):
            of = [*run]
            group = self.groups[number].part(of[0] - before, of[-1] + 1 - before) if number >= 0 else None
            found.append((group, of))
        return found

    def due_images(self, rows: Rows, due: Due, now: int) -> set[Any]:
        """Images that are to be computed: those of which any row is due, or not kept."""
        pieces = self.pieces(rows)
        return {rows[i][1] for group, of in pieces if group is None or due(group.written, now) for i in of}

    def write(self, rows: Rows, x: Tensors, y: Tensors, step: int, form: Form = 0) -> None:
        """Keep what a piece gave out, y for the input x, which is read by some fills alone."""
        if not self.fill.recalls:
            self._add(Kept(self.fill.keep(None, x, y, step), step, rows, form))
            return
        for past, of in self.pieces(rows):
            xs, ys = ([take(tensor, of, len(rows)) for tensor in tensors] for tensors in (x, y))
            value = self.fill.keep(None if past is None else past.value, xs, ys, step)
            self._add(Kept(value, step, tuple(rows[i] for i in of), form))

    def _add(self, fresh: Kept) -> None:
        new = set(fresh.rows)
        self.groups = [group for group in self.groups if not new.issuperset(group.rows)] + [fresh]
        self.views = {fresh.rows: [fresh]}

    def replay(self, rows: Rows, x: Tensors, state: State) -> Tensors:
        """What stands in for these rows, of all of which something is kept."""
        kept = self.find(rows)
        assert kept is not None, "rows of which nothing is kept are computed"
        return self.give(kept, x, state)

    def give(self, kept: list[Kept], x: Tensors, state: State) -> Tensors:
        """What a piece gives out at this step, or at those that the present call serves.

        Args:
            kept: of all rows, in order.
            x: what the piece is given, the rows of every step; empty unless the fill reads it.
            state: of the run.
        """
        if state.span == 1:
            return self._at(kept, x, state.index)
        branches, span = len(state.branches), state.span
        each = [self._at(kept, rows_of_step(x, branches, span, i), state.index + i) for i in range(span)]
        apart = ([tensor.unflatten(0, (branches, -1)) for tensor in tensors] for tensors in zip(*each, strict=True))
        return [torch.stack(tensors, 1).flatten(0, 2) for tensors in apart]

    def _at(self, kept: list[Kept], x: Tensors, step: int) -> Tensors:
        if len(kept) == 1:
            return self.fill.give(kept[0].value, x, step)
        of, begin, found = sum(len(group.rows) for group in kept), 0, []
        for group in kept:
            places = range(begin, begin + len(group.rows))
            found.append(self.fill.give(group.value, [take(tensor, places, of) for tensor in x], step))
            begin += len(group.rows)
        return [torch.cat(tensors) for tensors in zip(*found, strict=True)]


def take(tensor: Tensor, places: Sequence[int], of: int) -> Tensor:
    """Some of a tensor's `of` rows by their places, in order; a row may be several along dimension 0."""
    each = tensor.shape[0] // of
    if len(places) == of:
        return tensor
    if places[-1] - places[0] == len(places) - 1:
        return tensor[places[0] * each : (places[-1] + 1) * each]
    return torch.cat([tensor[place * each : (place + 1) * each] for place in places])


def laid_over(tensor: Tensor, places: list[int], of: int, part: Tensor) -> Tensor:
    """A copy with some of its `of` rows replaced."""
    rows = list(tensor.chunk(of))
    for place, row in zip(places, part.chunk(len(places)), strict=True):
        rows[place] = row
    return torch.cat(rows)
