"""Prior noise injection (Faster Diffusion): a little of the initial noise, added again at late steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.engine.state import State
from postdiff.methods.base import Method, StepCall
from postdiff.methods.options import require

__all__ = ["NoiseInjection"]


@dataclass
class NoiseInjection(Method):
    """z_t <- z_t + alpha * z_T while t < threshold: keeps fine texture that encoder propagation smooths away.

    z_T are the latents that the run starts from. Solvers that let latents grow with the noise level (Euler, Heun)
    take alpha in units of latents of constant variance, so that it means the same there.

    Args:
        alpha: share of z_T added.
        threshold: as a fraction of the training timesteps: 0.5 is the second half of the noise schedule.
        when: "before" each solver step, which alone sees it (the authors' parallel code), or "after" it, by the time
            of the next step, so that the network sees it too (their sequential code, DiT and LDM).

    Reference:
        Li et al., "Faster Diffusion", NeurIPS 2024, arXiv:2312.09608, Sec. 3.3 and App. E.
    """

    alpha: float = 0.003
    threshold: float = 0.5
    when: Literal["before", "after"] = "before"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.alpha >= 0, "alpha", "0 or more")
        require(self, 0 <= self.threshold <= 1, "threshold", "from 0 to 1")

    def claims(self, network: Any) -> tuple[str, ...]:
        return ("prior noise",)

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        if self.alpha == 0:
            return forward(output, timestep, sample)
        if state.index == 0:
            # The run's own, which a method outside this one may hand on changed (mixed resolution does).
            assert state.first_latents is not None
            self._prior = state.first_latents / self._scale(timestep, sample, state)
        if self.when == "before":
            # The level is asked for first: sigma-based schedulers answer for their current step.
            return forward(output, timestep, self._injected(sample, timestep, state))
        moved = forward(output, timestep, sample)
        last = state.index + 1 == state.steps
        return moved if last else self._injected(moved, state.timesteps[state.index + 1], state)

    def _injected(self, latents: Tensor, timestep: Any, state: State) -> Tensor:
        if timestep / state.scheduler.config.num_train_timesteps >= self.threshold:
            return latents
        state.counts["noise_injection steps"] += 1
        return latents + self.alpha * self._scale(timestep, latents, state) * self._prior

    def _scale(self, timestep: Any, latents: Tensor, state: State) -> Tensor:
        """The standard deviation of latents at this time if the pictures' own is 1."""
        alpha, sigma = noise_levels.level(state.scheduler, torch.as_tensor(timestep, device=latents.device))
        return (alpha**2 + sigma**2).sqrt().to(latents.dtype)
