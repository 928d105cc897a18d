"""MACs as papers account for them, where that differs from what runs."""

from __future__ import annotations

from postdiff.cost.on_meta import Seen
from postdiff.cost.tally import Tally, Work

__all__ = ["one_branch", "paper_accounting"]


def paper_accounting(tally: Tally, seen: Seen) -> Work:
    """MACs of the denoiser as PostDiff's paper seems to have reckoned them by hand.

    The rule that meets the printed rows: from the gate of the cross-attention cache on, every step costs what one
    branch of such a step costs, less the cost A of *all* cross-attention of the network. For a full step that is
    what runs. A cheap DeepCache step holds only part of the cross-attention (3 of 16 modules on Stable Diffusion
    V1.5) and so can only save that part; the rule takes off A all the same, about 0.024 T too much a step. Where
    the cheap step holds none (SDXL), it takes off nothing, and agrees with what runs again.

    All of it is read from the run itself: a step that replays its cross-attention is of the same kind as a step that
    computes it if both have the same latent size and cost the same without it; A is the most that a step of that
    size has spent on cross-attention. A step whose kind has nowhere computed its cross-attention counts as it ran.

    Args:
        tally: of a call for one image.
        seen: of the same call.
    """
    held: dict[tuple[tuple[int, int], Work], Work] = {}  # cross-attention of one branch, by kind of step
    most: dict[tuple[int, int], Work] = {}  # the same of a full step, by latent size
    total, replaying = tally.work("denoiser"), []
    for step, branches in seen.branches.items():
        size, cross = seen.sizes[step], tally.work("denoiser", step, "cross-attention") // branches
        kind = size, tally.work("denoiser", step) // branches - cross
        if cross == Work():
            replaying.append((kind, branches))
        else:
            held[kind] = cross
            most[size] = max(cross, most.get(size, cross), key=lambda work: work.all)
    for kind, branches in replaying:
        if kind in held:
            total = total - (most[kind[0]] - held[kind]) * branches
    return total


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
