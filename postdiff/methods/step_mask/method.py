"""Step mask: the whole network runs at listed steps only, and what it gave out stands in at the others."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import nn

from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.replay import NETWORK, Due, Replay, at
from postdiff.engine.state import State
from postdiff.methods.cache import Cache, NetworkFill
from postdiff.methods.options import require

__all__ = ["RUNS", "StepMask"]

# How many steps are computed and how many are not, in turn: masks of 28 steps, as published with cache-dit.
RUNS: dict[str, tuple[int, ...]] = {
    "slow": (8, 1, 3, 2, 3, 2, 2, 2, 1, 3, 1),
    "medium": (6, 1, 2, 3, 2, 3, 2, 3, 2, 3, 1),
    "fast": (6, 1, 1, 3, 1, 4, 1, 5, 1, 4, 1),
    "ultra": (4, 2, 1, 5, 1, 6, 1, 7, 1),
}


@dataclass
class StepMask(Cache):
    r"""Call the network, and its ControlNet, at the steps of a mask; at the others nothing of it runs.

    The work is known beforehand, exactly the share of steps that are computed. Solvers that call the network twice a
    step (Heun, KDPM2) have masks of steps, each of two calls.

    Args:
        computed: a list of steps, rising from 0; a stride, of which 1 computes everything; or a mask published for 28
            steps: slow (18 computed), medium (15), fast (11), ultra (8). Another number of steps takes the nearest
            ones.
        fill: what stands in, from the last computed steps: the output itself, what the network added to its input,
            the output continued in a line or a parabola, or Spectrum's forecast from all computed steps.

    Equation:
        y_t = y_k \quad \text{or} \quad x_t + (y_k - x_k) \quad \text{or} \quad
        y_k + \sum_{j=1}^{m} \frac{(t - k)^j}{j!} \Delta^j y_k, \qquad k \text{ the last step of the mask}

    Works on:
        Every family.

    Oracle:
        A slow reference that computes everything and overwrites it; zero error on straight paths, as derived.

    Reference:
        The masks are those of cache-dit's steps computation masking; BudCache, ICML 2026, arXiv:2606.13496, and LeMiCa,
        NeurIPS 2025, arXiv:2511.00090, search for better ones.
    """

    innermost: ClassVar[float] = 0.5
    computed: int | str | list[int] = "medium"
    fill: NetworkFill = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.computed, str) and self.computed not in RUNS:
            raise unknown("computed of StepMask", self.computed, RUNS)
        if isinstance(self.computed, list | tuple):
            require(self, list(self.computed[:1]) == [0], "computed", "a list that begins with step 0")
            rising = all(one < other for one, other in pairwise(self.computed))
            require(self, rising, "computed", "rising, each step once")
        require(self, not isinstance(self.computed, int) or self.computed >= 1, "computed", "a stride of 1 or more")

    def replays(self, network: nn.Module) -> list[Replay]:
        return [Replay(NETWORK, self._rule, self.network_fill(self.fill), name="step_mask")]

    def _rule(self, state: State) -> Due:
        calls, steps = getattr(state.scheduler, "order", 1), state.steps  # a solver's last step may have one call only
        if isinstance(self.computed, list | tuple):
            return at(_checked(self.computed, steps, calls, type(state.scheduler).__name__))
        whole = -(-steps // calls)
        listed = range(0, whole, self.computed) if isinstance(self.computed, int) else _nearest(self.computed, whole)
        return at(step * calls + call for step in listed for call in range(calls))


def _nearest(name: str, steps: int) -> list[int]:
    """Steps of a run at which the mask, in the run's proportion, computes."""
    mask = [place % 2 == 0 for place, length in enumerate(RUNS[name]) for _ in range(length)]
    last = max(steps - 1, 1)
    return [step for step in range(steps) if mask[round(step * (len(mask) - 1) / last)]]


def _checked(listed: list[int], steps: int, calls: int, solver: str) -> list[int]:
    if listed[-1] >= steps:
        raise UsageError(f"StepMask: step {listed[-1]} is beyond this run of {steps} steps; use 0..{steps - 1}")
    for step in listed:
        begin = step - step % calls
        if missing := set(range(begin, min(begin + calls, steps))) - {*listed}:
            raise UsageError(
                f"StepMask: {solver} calls the network {calls} times a step, and {step} is in the mask without "
                f"{min(missing)}; list both, or neither"
            )
    return listed
