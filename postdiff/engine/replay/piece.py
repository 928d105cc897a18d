"""What is common to a module, a chain of blocks and the whole network: which rows are due, and what they all give out.

Where one call serves several steps (`state.span`), it is computed for all of them or for none: no call reaches over a
step at which a rule turns. Nobody plans for a miss of a new size or branch: then the first of the steps is kept, and
replayed for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from torch import Tensor

from postdiff.engine.ownership import Form, own
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.memory import Place, Rows, laid_over, take
from postdiff.engine.replay.rules import Due
from postdiff.engine.rows import rows_of_step
from postdiff.engine.state import State

__all__ = ["Piece"]


class Piece:
    """A piece of a network, in one run.

    Args:
        name: prefix of the counters in `state.counts`.
        fill: what stands in for its output.
        state: of the run.

    Attributes:
        due: the rule by steps, known when the run begins.
    """

    due: Due

    def __init__(self, name: str, fill: Fill, state: State) -> None:
        self.name, self.fill, self.state = name, fill, state
        self._places: dict[Hashable, Place] = defaultdict(lambda: Place(fill))

    def rows_due(self, place: Place, rows: Rows) -> list[int]:
        """Which of the rows are to be computed; an image is in all branches of a call, or in none."""
        images = place.due_images(rows, self.due, self.state.index)
        return [i for i, (_, image) in enumerate(rows) if image in images]

    def finish(
        self, place: Place, rows: Rows, computed: list[int], x: list[Tensor], y: list[Tensor], form: Form = 0
    ) -> list[Tensor]:
        """The output of all rows; what was computed is kept.

        Args:
            place: where.
            rows: of the call.
            computed: which of them are; some alone only where the call serves one step.
            x: what the piece was given, all rows, in tensors that nobody else writes to; empty if no fill reads it.
            y: what it gave out. All rows; what those that are not computed hold says nothing.
            form: how its output is made of these tensors.
        """
        state, of, found, fresh, wanted = self.state, len(rows), y, own(y), rows
        if len(computed) < of:
            rest = [i for i in range(of) if i not in computed]
            given = place.replay(tuple(rows[i] for i in rest), [take(tensor, rest, of) for tensor in x], state)
            if not computed:
                return given
            found = [laid_over(tensor, rest, of, part) for tensor, part in zip(y, given, strict=True)]
            wanted = tuple(rows[i] for i in computed)
            x, fresh = ([take(tensor, computed, of) for tensor in tensors] for tensors in (x, fresh))
        steps = self._steps()
        for step in range(steps) if self.fill.recalls else (steps - 1,):
            part = len(state.branches), state.span, step
            xs = rows_of_step(x, *part) if x else x
            place.write(wanted, xs, rows_of_step(fresh, *part), state.index + step, form)
        return found if steps == state.span else place.replay(rows, x, state)

    def _steps(self) -> int:
        """How many steps of a call are what they are computed to be: all, or, unplanned, the first."""
        state = self.state
        return state.span if state.span == 1 or self.due(state.index, state.index + state.span - 1) else 1
