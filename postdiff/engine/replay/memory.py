"""What is kept of a piece of a network, row by row: a row is one image in one guidance branch.

Rows that were computed together stay one tensor, and are replayed in one operation, until others of them are wanted.
A row belongs to one size of the latents and to one of the calls of its piece within a call of the network. So a change
of size, a branch or an image that is new is an ordinary miss, and what is dropped leaves the others valid: methods need
not know of each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from postdiff.engine.ownership import Form
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.rules import Due
from postdiff.engine.rows import map_tensors, rows_of_step, tile_rows
from postdiff.engine.state import State

__all__ = ["Kept", "Place", "Rows", "laid_over", "replayed", "take"]

Rows = tuple[Any, ...]


class Kept(NamedTuple):
    """What is kept of rows that were computed together.

    Attributes:
        value: as the fill keeps it; every tensor holds the rows one after the other.
        written: the step.
        rows: (guidance branch, image), each.
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
        places = list(range(begin, end))
        value = map_tensors(lambda tensor: take(tensor, places, len(self.rows)), self.value)
        return Kept(value, self.written, self.rows[begin:end], self.form)


class Place:
    """All that is kept at one size of the latents of one call of a piece within a call of the network.

    Attributes:
        groups: rows that were computed together, newest last.
        views: {(branches, images) of a call: what is kept of its rows, in order}, remembered.
        unmerged: the newest output as it was, where a method keeps something else of it; not yet among the groups.
    """

    def __init__(self) -> None:
        self.unmerged: Any = None
        self.groups: list[Kept] = []
        self.views: dict[Any, list[Kept]] = {}

    def find(self, rows: Rows) -> list[Kept] | None:
        """What is kept of these rows, cut where they were computed apart; None unless it is of all of them."""
        if len(self.groups) == 1 and self.groups[0].rows == rows:
            return self.groups[:]
        found = self.pieces(rows)
        return None if any(group is None for group, _ in found) else [group for group, _ in found if group is not None]

    def pieces(self, rows: Rows) -> list[tuple[Kept | None, int]]:
        """The same with None for rows of which nothing is kept; beside each, how many rows it is of."""
        places: list[tuple[Kept | None, int]] = []
        for row in rows:
            group = next((group for group in reversed(self.groups) if row in group.rows), None)
            places.append((group, -1 if group is None else group.rows.index(row)))
        found, begin = [], 0
        for end in range(1, len(rows) + 1):
            (group, first), last = places[begin], places[end - 1][1]
            if end < len(rows) and places[end][0] is group and (group is None or places[end][1] == last + 1):
                continue
            found.append((group if group is None else group.part(first, last + 1), end - begin))
            begin = end
        return found

    def due_images(self, rows: Rows, due: Due, now: int) -> set[int]:
        """Images of rows (branch, image) that are to be computed: those of which any row is due, or not kept."""
        found, begin = set(), 0
        for group, count in self.pieces(rows):
            if group is None or due(group.written, now):
                found |= {image for _, image in rows[begin : begin + count]}
            begin += count
        return found

    def write(self, fill: Fill, rows: Rows, x: list[Tensor], y: list[Tensor], step: int, form: Form = 0) -> None:
        """Keep what a piece gave out, y for the input x, which is read by some fills alone."""
        if not fill.recalls:
            self._add(Kept(fill.keep(None, x, y, step), step, rows, form))
            return
        begin = 0
        for past, count in self.pieces(rows):
            of = list(range(begin, begin + count))
            xs, ys = ([take(tensor, of, len(rows)) for tensor in tensors] for tensors in (x, y))
            value = fill.keep(None if past is None else past.value, xs, ys, step)
            self._add(Kept(value, step, rows[begin : begin + count], form))
            begin += count

    def _add(self, fresh: Kept) -> None:
        new = set(fresh.rows)
        self.groups = [group for group in self.groups if not new.issuperset(group.rows)] + [fresh]
        self.views = {}


def take(tensor: Tensor, places: list[int], of: int) -> Tensor:
    """Some of a tensor's `of` rows by their places, in order; a row may be several along dimension 0."""
    if len(places) == of:
        return tensor
    each = tensor.shape[0] // of
    if len(places) == 1:
        return tensor[places[0] * each : (places[0] + 1) * each]
    if places == list(range(places[0], places[-1] + 1)):
        return tensor[places[0] * each : (places[-1] + 1) * each]
    return torch.cat([tensor[place * each : (place + 1) * each] for place in places])


def laid_over(tensor: Tensor, places: list[int], of: int, part: Tensor) -> Tensor:
    """A copy with some of its `of` rows replaced."""
    rows = list(tensor.chunk(of))
    for place, row in zip(places, part.chunk(len(places)), strict=True):
        rows[place] = row
    return torch.cat(rows)


def replayed(fill: Fill, kept: list[Kept], x: list[Tensor], state: State) -> list[Tensor]:
    """What a piece gives out at this step, or at those that the present call serves, from what is kept of its rows.

    Args:
        kept: of all rows, in order.
        x: what the piece is given, the rows of every step; empty unless the fill reads it.
    """
    if state.span == 1:
        return _at(fill, kept, x, state.index)
    branches = len(state.branches)
    if fill.steady:
        return [tile_rows(tensor, branches, state.span) for tensor in _at(fill, kept, x, state.index)]
    each = [_at(fill, kept, rows_of_step(x, branches, state.span, i), state.index + i) for i in range(state.span)]
    apart = ([tensor.unflatten(0, (branches, -1)) for tensor in tensors] for tensors in zip(*each, strict=True))
    return [torch.stack(tensors, 1).flatten(0, 2) for tensors in apart]


def _at(fill: Fill, kept: list[Kept], x: list[Tensor], step: int) -> list[Tensor]:
    if len(kept) == 1:
        return fill.give(kept[0].value, x, step)
    of, begin, found = sum(len(group.rows) for group in kept), 0, []
    for group in kept:
        places = list(range(begin, begin + len(group.rows)))
        found.append(fill.give(group.value, [take(tensor, places, of) for tensor in x], step))
        begin += len(group.rows)
    return [torch.cat(tensors) for tensors in zip(*found, strict=True)]
