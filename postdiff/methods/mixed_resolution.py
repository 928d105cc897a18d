"""Mixed-resolution denoising: early steps small, late steps at full size (PostDiff, input level).

"Virtual" low resolution: the pipeline keeps full-size latents. While low, the network sees a sub-grid of them, and
the solver sees prediction and sample replicated from that grid. Solvers work element by element, so the sub-grid
evolves exactly as a run at the low size would, and masks, image latents and callbacks need no care.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from postdiff.engine import history, noise_levels, packing
from postdiff.engine.errors import UsageError
from postdiff.engine.grid import conform, resize, scale_pixels, shrink_control
from postdiff.engine.rows import split_rows
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, Method, NetworkCall, StepCall
from postdiff.methods.options import require, require_moment

__all__ = ["MixedResolution"]


@dataclass
class MixedResolution(Method):
    """Run the first steps at a fraction of the latent size, then go on at full size.

    At the switch the clean estimate x0 of the last low step is upsampled and noised to the level of the next step:
    x_t = alpha_t up(x0) + sigma_t eps. No extra network call is made. Where the paper is silent there is an option.

    Args:
        beta: low side over full side, in (0, 1); the low size is rounded to the network's patch size.
        switch: first step at full size, as a step or as the fraction of the run spent low. 0 means never low.
            Second-order solvers switch on a multiple of their order, rounded down.
        upsampling: how x0 is enlarged.
        x0: from the "guided" prediction, which the solver sees, or from the "conditional" branch's alone, which
            guidance has not pushed away from likely pictures.
        noise: "fresh" draws eps from the per-sample generators; "shared" takes the run's initial noise again;
            "upsampled" enlarges the noise in the last low latents, pixel by pixel, and so draws nothing.
        renoise: the level x0 is noised to: that of the "next" step, which the network is told then, or of the
            "current" one, the last low step's, which leaves more noise than the network is told.
        history: what a multistep solver remembers of the low phase: "keep" it replicated, resample it
            "bilinear", or "reset" it. Bilinear agrees with the upsampled x0 and serves every solver.
        micro_conditioning: sizes in pixels told to the network (SDXL, PixArt) in the low phase: "full" or "low".

    Reference:
        Du, Fu, Wang et al., "Fewer Denoising Steps or Cheaper Per-Step Inference", ICCV 2025, arXiv:2508.06160,
        mixed-resolution denoising; x0 by its Eq. 2.
    """

    beta: float = 0.5
    switch: float | int = 0.5
    upsampling: Literal["bilinear", "bicubic", "nearest-exact"] = "bilinear"
    x0: Literal["guided", "conditional"] = "guided"
    noise: Literal["fresh", "shared", "upsampled"] = "fresh"
    renoise: Literal["next", "current"] = "next"
    history: Literal["keep", "bilinear", "reset"] = "bilinear"
    micro_conditioning: Literal["full", "low"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 0 < self.beta < 1, "beta", "between 0 and 1, both excluded")
        require_moment(self, "switch")

    def claims(self, network: nn.Module) -> tuple[str, ...]:
        return ("latent size",)

    def attach(self, network: nn.Module, state: State) -> tuple[()]:
        side = getattr(network.config, "patch_size", None) or 1
        self._patch = side if isinstance(side, int) else side[-1]  # of a video (frames, height, width)
        self._block = packing.SIDE if state.family.packed else 1
        self._patch = max(self._patch, self._block)
        return ()

    def start(self, state: State) -> None:
        order = getattr(state.scheduler, "order", 1)
        self._switch = state.step_of(self.switch, "switch") // order * order
        if self._switch == state.steps:
            raise UsageError(
                f"MixedResolution: switch={self.switch} leaves no step at full size in {state.steps} steps"
            )
        if not self._switch:
            return
        if self.noise == "shared" and state.start:
            raise UsageError("MixedResolution: noise='shared' needs a run that starts from pure noise; use 'fresh'")
        if self.history == "reset" and not history.can_reset(state.scheduler):
            history.reset(state.scheduler)  # raises with the solver's own reason, before anything is computed
        height, width = (max(1, round(self.beta * side / self._patch)) * self._patch for side in state.full_size)
        self._low = (height, width)
        state.boundaries.add(self._switch)

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        if state.index >= self._switch:
            return forward(sample, kwargs)
        kwargs = conform(kwargs, state.family.resize, state.full_size, self._low, self._patch)
        if self.micro_conditioning == "low":
            kwargs = scale_pixels(kwargs, state.family.pixels, state.full_size, self._low)
        output = forward(resize(sample, self._low, block=self._block), kwargs)
        if self.x0 == "conditional" and (not state.separate or state.branches == ("cond",)):
            # Another method may compute a single branch, whichever, in the place of all: then that is the prediction.
            place = state.branches.index("cond") if "cond" in state.branches else 0
            self._conditional = split_rows(output, len(state.branches))[place]
        return resize(output, state.full_size, block=self._block)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        if state.index >= self._switch:
            return forward(kwargs)
        return forward(shrink_control(kwargs, state.full_size, self._low))

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        if state.index == 0 and self.noise == "shared":
            self._first_noise = sample / state.scheduler.init_noise_sigma
        if state.index >= self._switch:
            return forward(output, timestep, sample)
        full = state.full_size
        output, sample = (resize(value, self._low, block=self._block) for value in (output, sample))
        low = None
        if state.index == self._switch - 1:
            # Before the solver moves on: sigma-based schedulers answer for their current step.
            wanted = self._conditional if self.x0 == "conditional" else output
            now = torch.as_tensor(timestep, device=sample.device)
            low = noise_levels.estimate(state.scheduler, wanted, now, sample)
        output, sample = (resize(value, full, block=self._block) for value in (output, sample))
        moved = forward(output, timestep, sample)
        return moved if low is None else self._enter_full_size(low, state)

    def _enter_full_size(self, low: noise_levels.Estimate, state: State) -> Tensor:
        """Upsample x0, noise it to the level of the next step, and bring the solver's memory along."""
        scheduler, full = state.scheduler, state.full_size
        if self.history == "reset":
            history.reset(scheduler)
        elif self.history == "bilinear":
            history.resample(scheduler, lambda past: self._enlarged(past, full))
        history.forget_last_sample(scheduler)
        x0 = resize(low.x0, full, self.upsampling)
        if self.noise == "upsampled":
            noise = resize(low.noise, full)
        else:
            noise = self._first_noise if self.noise == "shared" else state.noise(x0)
        alpha, sigma = low.alpha, low.sigma
        if self.renoise == "next":
            alpha, sigma = noise_levels.level(scheduler, state.timesteps[state.index + 1])
        return (alpha * x0 + sigma * noise).to(x0.dtype)

    def _enlarged(self, past: Tensor, full: tuple[int, int]) -> Tensor:
        return resize(resize(past, self._low, block=self._block), full, "bilinear")
