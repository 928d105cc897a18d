"""Prior noise injection (Faster Diffusion): a little of the initial noise, added again at late steps."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, Method, NetworkCall, StepCall
from postdiff.methods.options import require

__all__ = ["NoiseInjection"]


@dataclass
class NoiseInjection(Method):
    r"""z_t <- z_t + alpha * z_T while t < threshold: keeps fine texture that encoder propagation smooths away.

    z_T are the latents that the run starts from. Solvers that let latents grow with the noise level (Euler, Heun)
    take alpha in units of latents of constant variance, so that it means the same there.

    Both ways go by the time of the step that begins with z_t, and the finished latents get nothing. The authors' code
    for other models differs. LDM's adds after the solver's step by the time of the step just taken: at its threshold of
    0.15, after steps 42 to 49 of 50, the last among them, and not after 41 to 48, as "after" does here. DiT's adds only
    among steps that are decoded together.

    Beside mixed resolution, what is injected at the last small step reaches the clean estimate only where this method
    stands outside; elsewhere the order of the two changes nothing.

    Args:
        alpha: share of z_T added.
        threshold: as a fraction of the training timesteps: 0.5 is the second half of the noise schedule.
        when: "before" each solver step, which alone sees it (the authors' parallel code for Stable Diffusion), or
            "after" the one before, so that the network sees it too (their sequential code). A run that starts below
            the threshold, as image-to-image may, has it before its first network call as well.

    Equation:
        z_t \leftarrow z_t + \alpha \, z_T \qquad \text{while } t < \tau

    Works on:
        Every family, with solvers whose timesteps are those of training.

    Oracle:
        Loops that add it by hand, before and after the solver's step.

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

    def attach(self, network: nn.Module, state: State) -> Iterable[AbstractContextManager[None]]:
        config: Any = network.config
        self._predicted = getattr(config, "out_channels", None) or getattr(config, "in_channels", None)
        return ()

    def start(self, state: State) -> None:
        self._at_once = False
        if self.alpha == 0:
            return
        noise_levels.ratios(state.scheduler, state.timesteps[:1])
        if (state.timesteps < 0).any():
            raise UsageError(
                f"NoiseInjection: {type(state.scheduler).__name__} counts in logarithms of noise levels, and threshold "
                "is a fraction of the training timesteps; use another solver, or leave the method out"
            )
        # Of all steps at once: every look at a timestep waits for a GPU.
        share = state.timesteps / state.scheduler.config.num_train_timesteps
        self._late = (share < self.threshold).tolist()
        self._at_once = self.when == "after" and self._late[0]

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        return forward(self._first(sample, state), kwargs)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        return forward({**kwargs, "sample": self._first(kwargs["sample"], state)})

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        if self.alpha == 0:
            return forward(output, timestep, sample)
        at_once = self._at_once and state.index == 0
        if state.index == 0:
            # The run's own, which a method outside this one may hand on changed (mixed resolution does).
            assert state.first_latents is not None
            self._prior = state.first_latents / self._scale(timestep, sample, state)
            if at_once and self._channels != sample.shape[1]:
                raise UsageError(
                    "NoiseInjection: this run starts below the threshold, and it is not known which of the network's "
                    f"channels are the {sample.shape[1]} latent ones; use when='before'"
                )
        if self.when == "before" or at_once:
            # The level is asked for first: sigma-based schedulers answer for their current step.
            sample = self._injected(sample, state.index, state)
        moved = forward(output, timestep, sample)
        if self.when == "before" or state.index + 1 == state.steps:
            return moved
        return self._injected(moved, state.index + 1, state)

    def _first(self, sample: Tensor, state: State) -> Tensor:
        """What the network is given at first, with a share of z_T added: it is z_T itself, in units of its own."""
        if state.index or not self._at_once:
            return sample
        config = getattr(state.vae, "config", None)
        # Masks and other images may stand behind the latents.
        channels = getattr(config, "latent_channels", None) or getattr(config, "z_dim", None) or self._predicted
        channels = channels or sample.shape[1]
        self._channels = min(channels, sample.shape[1])
        return torch.cat([sample[:, :channels] * (1 + self.alpha), sample[:, channels:]], 1)

    def _injected(self, latents: Tensor, step: int, state: State) -> Tensor:
        if not self._late[step]:
            return latents
        state.counts["noise_injection steps"] += 1
        return latents + self.alpha * self._scale(state.timesteps[step], latents, state) * self._prior

    def _scale(self, timestep: Any, latents: Tensor, state: State) -> Tensor:
        """The standard deviation of latents at this time if the images' own is 1."""
        alpha, sigma = noise_levels.level(state.scheduler, torch.as_tensor(timestep, device=latents.device))
        return (alpha**2 + sigma**2).sqrt()
