"""Guidance interval: classifier-free guidance only where the noise level is neither high nor low."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require

__all__ = ["GuidanceInterval"]


@dataclass
class GuidanceInterval(Method):
    r"""Guide while `low` < noise level <= `high`; elsewhere compute the conditional branch alone.

    The noise level is noise over signal, sigma / alpha, so that the interval means the same for every solver and
    number of steps. A guidance scale chosen for the whole run is usually raised when the interval is narrowed.

    Args:
        low: noise level down to which guidance is on.
        high: noise level from which on it is on.

    Equation:
        \hat\epsilon_t = \begin{cases} u_t + w \, (c_t - u_t) & \text{low} < \sigma_t / \alpha_t \le \text{high} \\
        c_t & \text{elsewhere} \end{cases}

    Works on:
        Every run with guidance.

    Oracle:
        A slow reference with the interval written out.

    Reference:
        Kynkaanniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
        Diffusion Models", NeurIPS 2024, arXiv:2404.07724; the default interval is theirs for SDXL.
    """

    low: float = 0.28
    high: float = 5.42

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.low >= 0, "low", "0 or more")
        require(self, self.high > self.low, "high", f"more than low={self.low}")

    def claims(self, network: nn.Module) -> tuple[str, ...]:
        return ("guidance",)

    def start(self, state: State) -> None:
        if len(state.all_branches) == 1:
            raise UsageError(
                "GuidanceInterval: this run has no guidance to limit; leave it out or use guidance_scale > 1"
            )
        self._guided = [
            self.low < level <= self.high for level in noise_levels.ratios(state.scheduler, state.timesteps)
        ]
        state.boundaries |= {s for s in range(1, state.steps) if self._guided[s] != self._guided[s - 1]}

    def step_start(self, state: State) -> None:
        if not self._guided[state.index]:
            state.only = "cond"
