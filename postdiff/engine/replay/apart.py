"""Which rows of a piece are computed now, and their outputs beside those that are replayed.

A `Watch` decides for one image at a time, so that an image does not depend on its neighbours: the rows to be computed
go through the piece alone. So does a rule by steps, beside a method that has called the network for some images only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.ownership import own
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import Place, laid_over, replayed, take
from postdiff.engine.replay.rules import Due, Watch
from postdiff.engine.rows import rows_of_step
from postdiff.engine.state import State

__all__ = ["RowsApart"]

Tensors = list[Tensor]
At = Hashable  # the size of the latents, and where a piece may be called again, which of its calls


class RowsApart:
    """Decisions and memory of a piece, in one run.

    Args:
        name: prefix of the counters in `state.counts`.
        fill: of the piece.
        state: of the run.
    """

    rule: Due | Watch  # known when the run begins

    def __init__(self, name: str, fill: Fill, state: State) -> None:
        self.name, self.fill, self.state = name, fill, state
        self._places: dict[At, Place] = defaultdict(Place)
        self._notebooks: dict[Any, SimpleNamespace] = {}
        self._verdict: tuple[Any, set[int]] = (None, set())  # (step and place, images to compute), of rules together

    def decide(self, at: At, seen: Tensor) -> list[int]:
        """Places in `state.rows` of the rows to be computed.

        Args:
            at: the size of the latents, and which of the piece's calls.
            seen: what a watch looks at, all rows.

        Raises:
            UsageError: a watch is to look at features that have no values.
        """
        state, place = self.state, self._places[at]
        rows, every = state.rows, list(range(len(state.rows)))
        if not isinstance(self.rule, Watch):
            due = place.due_images(rows, self.rule, state.index)
            return [i for i in every if rows[i][1] in due]
        if seen.is_meta or state.weightless:
            raise UsageError(
                f"{self.name} decides by the features of each image, so its work cannot be counted without weights; "
                "run the experiment, whose records hold it"
            )
        known = {row for group in place.groups for row in group.rows}
        unknown = {i for i in every if rows[i] not in known}
        if not self.rule.together:
            return sorted(self._watched(self.rule, at, every, seen, unknown))
        images = self._agreed(self.rule, at, seen, unknown)
        return [i for i in every if rows[i][1] in images]

    def count(self, computed: int) -> None:
        """Note how many rows of a call were computed."""
        state = self.state
        state.counts[f"{self.name} rows replayed"] += (len(state.rows) - computed) * state.span
        state.counts[f"{self.name} rows computed"] += computed * state.span

    def _agreed(self, watch: Watch, at: At, seen: Tensor, unknown: set[int]) -> set[int]:
        """Images to compute: decided once a step, on one branch; and those of which a branch is not known yet."""
        state, rows = self.state, self.state.rows
        if self._verdict[0] != (state.index, at):
            one = "cond" if "cond" in state.branches else state.branches[0]
            deciding = [i for i, (branch, _) in enumerate(rows) if branch == one]
            found = self._watched(watch, at, deciding, seen, unknown)
            self._verdict = (state.index, at), {rows[i][1] for i in found}
            self._looked = one
        return self._verdict[1] | {rows[i][1] for i in unknown}

    def _watched(self, watch: Watch, at: At, places: list[int], seen: Tensor, unknown: set[int]) -> set[int]:
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

    def finish(
        self, at: At, computed: list[int], seen: Tensor, x: Tensors, y: Tensors, *, whole: bool = True
    ) -> Tensors:
        """The output of all rows; what was computed is kept.

        Args:
            at: the size of the latents, and which of the piece's calls.
            computed: as decided.
            seen: as it was.
            x: what the piece was given, all rows, in tensors that nobody else writes to.
            y: what it gave out. All rows; what those that are not computed hold says nothing.
            whole: whether the piece ends here, and not a section of it, which has a place of its own.
        """
        state, place = self.state, self._places[at]
        rows, of = state.rows, len(state.rows)
        if not computed:
            kept = place.find(rows)
            assert kept is not None, "rows of which nothing is kept are computed"
            return replayed(self.fill, kept, x, state)
        rest = [i for i in range(of) if i not in computed]
        found = y
        if rest:
            kept = place.find(tuple(rows[i] for i in rest))
            assert kept is not None, "rows of which nothing is kept are computed"
            given = replayed(self.fill, kept, [take(tensor, rest, of) for tensor in x], state)
            found = [laid_over(tensor, rest, of, part) for tensor, part in zip(y, given, strict=True)]
        steps = self._steps()
        for i in range(steps) if self.fill.recalls else (steps - 1,):
            xs, ys = (rows_of_step(tensors, len(state.branches), state.span, i) for tensors in (x, own(y)))
            xs, ys = ([take(tensor, computed, of) for tensor in tensors] for tensors in (xs, ys))
            place.write(self.fill, tuple(rows[i] for i in computed), xs, ys, state.index + i)
        if isinstance(self.rule, Watch) and whole:
            self._note(self.rule, at, computed, seen, x, y)
        if steps < state.span:
            kept = place.find(rows)
            assert kept is not None, "written just now"
            return replayed(self.fill, kept, x, state)
        return found

    def _steps(self) -> int:
        """As of a module's: how many steps of a call are what they are computed to be."""
        state, rule = self.state, self.rule
        if state.span == 1:
            return 1
        assert not isinstance(rule, Watch), "what looks claims the rows, as does what calls for several steps"
        return state.span if rule(state.index, state.index + state.span - 1) else 1

    def _note(self, watch: Watch, at: At, computed: list[int], seen: Tensor, x: Tensors, y: Tensors) -> None:
        rows, [output] = self.state.rows, own(y[:1])
        for i in computed:
            if watch.together and rows[i][0] != self._looked:
                continue
            past = self._notebook(watch, at, rows[i])
            now, before, after = (take(tensor, [i], len(rows)) for tensor in (seen, x[0], output))
            watch.note(past, now, before, after, self.state)
            past.computed = True
