"""Keeping something else than what a module gave out: the mean of the guidance branches, for instance.

It is made once somebody reads it, for most outputs are computed again before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.ownership import Form
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import Kept, Place, Rows
from postdiff.engine.replay.rules import Due
from postdiff.engine.rows import split_rows
from postdiff.engine.state import State

__all__ = ["Merge", "MergedPlace"]

# ({branch: tensor}, step, guidance scale) -> {branch: tensor}, what is kept in their place.
Merge = Callable[[dict[Any, Tensor], int, float], dict[Any, Tensor]]


class MergedPlace(Place):
    """A place that merges what is written to it; of the outputs not yet read, the newest is enough.

    Args:
        fill: one that does not recall.
        merge: turns the branches' fresh outputs into what is kept.
        state: of the run.
    """

    def __init__(self, fill: Fill, merge: Merge, state: State) -> None:
        super().__init__(fill)
        self.merge, self.state = merge, state
        self._fresh: tuple[Kept, float] | None = None  # beside it, the guidance scale

    def write(self, rows: Rows, x: list[Tensor], y: list[Tensor], step: int, form: Form = 0) -> None:
        if self._fresh is not None and self._fresh[0].rows != rows:
            self._settle()
        self._fresh = Kept(y, step, rows, form), self.state.guidance_scale

    def find(self, rows: Rows) -> list[Kept] | None:
        self._settle()
        return super().find(rows)

    def ready(self, rows: Rows, due: Due, now: int) -> list[Kept] | None:
        unread = self._fresh is not None and due(self._fresh[0].written, now)
        return None if unread else super().ready(rows, due, now)

    def due_images(self, rows: Rows, due: Due, now: int) -> set[Any]:
        return {image for _, image in rows}

    def _settle(self) -> None:
        if self._fresh is None:
            return
        (fresh, scale), self._fresh = self._fresh, None
        branches, images = (tuple(dict.fromkeys(row[i] for row in fresh.rows)) for i in (0, 1))
        parts = zip(*split_rows(fresh.value, len(branches)), strict=True)
        merged = [self.merge(dict(zip(branches, part, strict=True)), fresh.written, scale) for part in parts]
        tensors = [torch.cat([*one.values()]) for one in merged]
        rows = tuple((branch, image) for branch in merged[0] for image in images)
        super().write(rows, [], tensors, fresh.written, fresh.form)
