"""Which latent size a run has at which step: stages of rising size, the last of which is the pipeline's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.methods.mixed_resolution import history

__all__ = ["ResolutionStage", "growth", "levels", "plan", "spread", "switches"]

Size = tuple[int, int]


@dataclass(frozen=True)
class ResolutionStage:
    """Steps that run small.

    Attributes:
        size: latent (height, width) of these steps.
        end: the first step of the next stage.
        larger: latent size of that one.
    """

    size: Size
    end: int
    larger: Size


def switches(moments: Sequence[float | int], state: State, method: str) -> list[int]:
    """The first step of every stage but the first; [] if the run is never low.

    A solver that goes back to a sample it remembers would lose a new one there: the stage then ends before, at a step
    that begins with the sample at hand, or, if there is none before, after.

    Args:
        moments: each a step (int) or a fraction of the run (float); a lone 0 means never low.
        state: a run whose number of steps is known.
        method: in whose name to complain.

    Raises:
        UsageError: a moment outside the run, no step at full size, or a stage without a step.
    """
    ends = [_fresh(state.step_of(moment, "switch"), state) for moment in moments]
    if ends == [0]:
        return []
    given = moments[0] if len(moments) == 1 else list(moments)
    if ends[-1] == state.steps:
        raise UsageError(f"{method}: switch={given} leaves no step at full size in {state.steps} steps")
    if any(end <= before for before, end in zip([0, *ends], ends, strict=False)):
        raise UsageError(
            f"{method}: switch={given} leaves a stage without a step: of {state.steps} steps the stages end at "
            f"{', '.join(map(str, ends))}; take the switches further apart"
        )
    return ends


def levels(state: State) -> dict[int, float]:
    """{step: noise over signal} of the steps of a run at which its size may change, and of the first.

    Raises:
        UsageError: the scheduler tells no noise levels.
    """
    ratios = enumerate(noise_levels.ratios(state.scheduler, state.timesteps))
    return {step: ratio for step, ratio in ratios if history.starts_afresh(state.scheduler, step, state.start)}


def plan(
    betas: Sequence[float], ends: Sequence[int], full: Size, patch: int, method: str
) -> tuple[ResolutionStage, ...]:
    """The stages below full size, in order.

    Args:
        betas: their sides over the full side, rising.
        ends: what `switches` gives.
        full: the pipeline's own latent size.
        patch: sides are rounded to multiples of it.
        method: in whose name to complain.

    Raises:
        UsageError: two stages of one size, or one of none.
    """
    for beta in betas:
        if round(beta * min(full) / patch) < 1:
            raise UsageError(
                f"{method}: beta={beta} of {full[0]} x {full[1]} latent pixels is less than one patch of the network; "
                f"use {math.floor(50 * patch / min(full) + 1) / 100:g} or more"
            )
    sizes = [_scaled(beta, full, patch) for beta in betas]
    for small, large in itertools.pairwise(sizes):
        if small == large:
            raise UsageError(
                f"{method}: beta={list(betas)} gives two stages of {small[0]} x {small[1]} latent pixels; "
                "take them further apart"
            )
    return tuple(ResolutionStage(*each) for each in zip(sizes, ends, [*sizes[1:], full], strict=False))


def spread(values: Sequence[float], ends: Sequence[int], steps: int) -> list[float]:
    """A value for every step: those of the low stages in turn, and 1 at full size."""
    stages = zip(values, [0, *ends], ends, strict=False)
    low = [value for value, start, end in stages for _ in range(end - start)]
    return low + [1.0] * (steps - len(low))


def growth(betas: Sequence[float], ends: Sequence[int], steps: int) -> list[float]:
    """A factor for every step: the ratio of its side to that of the step before."""
    sides = spread(betas, ends, steps)
    return [1.0, *(now / before for before, now in itertools.pairwise(sides))]


def _fresh(wanted: int, state: State) -> int:
    if not wanted:
        return 0
    steps = [step for step in range(1, state.steps + 1) if history.starts_afresh(state.scheduler, step, state.start)]
    return max((step for step in steps if step <= wanted), default=min(steps, default=state.steps))


def _scaled(beta: float, full: Size, patch: int) -> Size:
    height, width = (round(beta * side / patch) * patch for side in full)
    return height, width
