"""What one guidance branch costs: the values of papers that do not count both."""

from __future__ import annotations

from postdiff.cost.on_meta import Seen
from postdiff.cost.tally import Tally

__all__ = ["one_branch"]


def one_branch(tally: Tally, seen: Seen) -> Tally:
    """The same call as one guidance branch has it: its share of every step, one prompt's of the text encoder.

    A step without guidance is one branch's already. Shares are rounded down, which matters only where the branches
    of a network have work in common.
    """

    def share(place: str, step: int) -> int:
        part = place.partition(":")[0]
        if part == "denoiser":
            return seen.branches.get(step, 1)
        return seen.prompts if part == "text_encoder" else 1

    cells = {cell: work // share(cell[0], cell[1]) for cell, work in tally.cells.items()}
    return Tally(cells, tally.steps)
