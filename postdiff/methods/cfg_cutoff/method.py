"""CFG cut-off: from a gate on, compute the conditional branch alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require_moment

__all__ = ["CFGCutoff"]


@dataclass
class CFGCutoff(Method):
    r"""Guidance for the first `gate` steps; afterwards one network row a sample instead of two.

    The pipeline keeps guiding, `u + w (c - u)`, but gets the conditional prediction for u as well, which makes the
    result exactly c. A run without guidance is refused: there would be nothing to cut.

    Args:
        gate: first step without guidance, as a step or a fraction of the run; 1.0 means never cut.

    Equation:
        \hat\epsilon_t = \begin{cases} u_t + w \, (c_t - u_t) & t < g \\ c_t & t \ge g \end{cases}

    Works on:
        Every run with guidance.

    Oracle:
        A loop written over network and solver; gate 0 equals a guidance scale of 1.

    Reference:
        Zhang et al., "Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models" (T-GATE),
        arXiv:2404.02747; PostDiff (arXiv:2508.06160), hybrid module caching.
    """

    gate: int | float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        require_moment(self, "gate")

    def claims(self, network: nn.Module) -> tuple[str, ...]:
        # The branch that goes on after the cut is one method's to choose.
        return ("guidance",)

    def start(self, state: State) -> None:
        if len(state.all_branches) == 1:
            raise UsageError("CFGCutoff: this run has no guidance to cut off; leave it out or use guidance_scale > 1")
        self._gate = state.step_of(self.gate, "gate")
        state.boundaries.add(self._gate)

    def step_start(self, state: State) -> None:
        if state.index >= self._gate:
            state.only = "cond"
