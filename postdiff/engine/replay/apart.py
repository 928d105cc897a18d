"""Which rows of a piece are computed now, where images may decide apart.

A `Watch` decides for one image at a time, so that an image does not depend on its neighbours: the rows to be computed
go through the piece alone. So does a rule by steps, beside a method that has called the network for some images only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.ownership import own
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import take
from postdiff.engine.replay.piece import Piece
from postdiff.engine.replay.rules import Watch
from postdiff.engine.state import State

__all__ = ["At", "RowsApart"]

At = Hashable  # the size of the latents, and of several networks or several calls of a piece, which


class RowsApart(Piece):
    """A piece that rows may go through alone, in one run.

    Attributes:
        watch: the rule, where it looks.
    """

    watch: Watch | None = None

    def __init__(self, name: str, fill: Fill, state: State) -> None:
        super().__init__(name, fill, state)
        self._notebooks: dict[Any, SimpleNamespace] = {}
        self._verdict: tuple[Any, set[int]] = (None, set())  # (step and place, images to compute), of rules together

    def decide(self, at: At, seen: Tensor) -> list[int]:
        """Places in `state.rows` of the rows to be computed.

        Args:
            at: the size of the latents, and which of the piece's calls.
            seen: what a watch looks at, all rows.
        """
        state, place, watch = self.state, self._places[at], self.watch
        rows = state.rows
        if watch is None:
            return self.rows_due(place, rows)
        unknown = {i for group, of in place.pieces(rows) if group is None for i in of}
        if not watch.together:
            return sorted(self._watched(watch, at, range(len(rows)), seen, unknown))
        if self._verdict[0] != (state.index, at):  # decided once a step, on one branch
            self._looked = "cond" if "cond" in state.branches else state.branches[0]
            deciding = [i for i, (branch, _) in enumerate(rows) if branch == self._looked]
            found = self._watched(watch, at, deciding, seen, unknown)
            self._verdict = (state.index, at), {rows[i][1] for i in found}
        images = self._verdict[1] | {rows[i][1] for i in unknown}
        return [i for i, (_, image) in enumerate(rows) if image in images]

    def _watched(self, watch: Watch, at: At, places: Iterable[int], seen: Tensor, unknown: set[int]) -> set[int]:
        state, rows = self.state, self.state.rows
        asked, numbers, computed = [], [], set()
        for i in places:
            past = self._notebook(watch, at, rows[i])
            number = watch.measure(past, take(seen, [i], len(rows)), state)
            if number is None or i in unknown:
                computed.add(i)
            else:
                asked.append((i, past))
                numbers.append(number)
        found = torch.stack(numbers).tolist() if numbers else []  # the only time that a GPU is waited for
        return computed | {i for (i, past), number in zip(asked, found, strict=True) if watch.due(past, number, state)}

    def _notebook(self, watch: Watch, at: At, row: tuple[str, int]) -> SimpleNamespace:
        key = at, None if watch.together else row[0], row[1]
        return self._notebooks.setdefault(key, SimpleNamespace(computed=False, image=row[1]))

    def forget(self) -> None:
        """Compute all rows next time: what is kept of them is of another form than they are now."""
        self._places.clear()
        self._notebooks.clear()
        self._verdict = None, set()

    def noted(
        self, at: At, computed: list[int], seen: Tensor, x: list[Tensor], y: list[Tensor], whole: bool = True
    ) -> list[Tensor]:
        """As `finish`; rows are counted, and what a watch has to note is noted.

        Args:
            at: the size of the latents, and which of the piece's calls.
            computed: as decided.
            seen: as it was.
            x: what the piece was given, all rows.
            y: what it gave out.
            whole: whether the piece ends here, and not a section of it, which has a place of its own.
        """
        rows, counts, watch = self.state.rows, self.state.counts, self.watch
        found = self.finish(self._places[at], rows, computed, x, y)
        if not whole:
            return found
        counts[f"{self.name} rows replayed"] += (len(rows) - len(computed)) * self.state.span
        counts[f"{self.name} rows computed"] += len(computed) * self.state.span
        if watch is None:
            return found
        [output] = own(y[:1])
        for i in computed:
            if not watch.together or rows[i][0] == self._looked:
                past = self._notebook(watch, at, rows[i])
                now, before, after = (take(tensor, [i], len(rows)) for tensor in (seen, x[0], output))
                watch.note(past, now, before, after, self.state)
                past.computed = True
        return found
