"""Mixed-resolution denoising: early steps small, late steps at full size (PostDiff, input level).

"Virtual" low resolution: the pipeline keeps full-size latents. While low, the network sees a sub-grid of them, and
the solver sees prediction and sample replicated from that grid. Solvers work element by element, so the sub-grid
evolves exactly as a run at the low size would, and masks, image latents and callbacks need no care.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from postdiff import catalog
from postdiff.engine import noise_levels, packing
from postdiff.engine.errors import UsageError
from postdiff.engine.grid import conform, resize, scale_pixels, shrink_control
from postdiff.engine.noise_levels import Estimate
from postdiff.engine.rows import split_rows
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, Method, NetworkCall, StepCall
from postdiff.methods.mixed_resolution import history, level_shift, pixel_space, power_law, size_plan
from postdiff.methods.mixed_resolution.axes import Axes
from postdiff.methods.mixed_resolution.schedule import Schedule
from postdiff.methods.options import later, listed, read_calibration, require, require_stages

__all__ = ["MixedResolution"]


@dataclass
class MixedResolution(Method):
    r"""Run the first steps at a fraction of the latent size, then go on at full size.

    At a switch the clean estimate x0 of the last low step is upsampled and noised to the level of the next step:
    x_t = alpha_t up(x0) + sigma_t eps. No extra network call is made. Where the paper is silent there is an option.
    `beta` and `switch` may be lists, an entry a stage: `beta: [0.5, 0.75], switch: [0.3, 0.6]` (MegaFusion, RALU).
    `space: cosine, renoise: aligned, switch: auto, spectrum: FILE` is spectral progressive diffusion (SPEED).

    Args:
        beta: low side over full side, in (0, 1); the low size is rounded to the network's patch size. A list rises.
        switch: first step at the next size, as a step or as the fraction of the run before it. A lone 0 means never
            low. A list rises. A solver that within a step of several calls goes back to its first sample (Heun,
            DPM-Solver-2, DPM-Solver singlestep, PNDM's warm-up) switches between such steps, at the last one before.
            "auto" finds the steps by `spectrum` and `tolerance`.
        upsampling: how x0 is enlarged.
        x0: from the "guided" prediction, which the solver sees, or from the "conditional" branch's alone, which
            guidance has not pushed away from likely images.
        noise: "fresh" draws eps from the per-sample generators; "shared" takes the run's initial noise again;
            "upsampled" enlarges the noise in the last low latents, pixel by pixel, and so draws nothing; "correlated"
            keeps that noise as the means of the enlarged pixels and draws the rest, so that eps is white (Pyramidal
            Flow Matching, Section 3.2; RALU's noise-timestep rescheduling).
        renoise: the level x0 is noised to: that of the "next" step, which the network is told then, or of the
            "current" one, the last low step's, which leaves more noise than the network is told. "aligned" raises
            the next step's noise over signal by the ratio of the two sides first, for enlarging noisy latents does so
            (SPEED). That level is written into the solver's list, and what a multistep solver remembers is dropped.
            DDIM, PNDM, DDPM and LCM have no such list, and there it is the same as "next".
        history: what a multistep solver remembers of the low phase: "keep" it replicated, resample it
            "bilinear", or "reset" it, so that the next step is of first order. Bilinear agrees with the upsampled x0
            and with eps, which takes the place of remembered noise, and serves every solver.
        micro_conditioning: sizes in pixels told to the network (SDXL, PixArt) in the low phase: "full" or "low".
        space: where x0 is enlarged: as "latent" or as "pixel", between the VAE's decoder and encoder (MegaFusion,
            Section 3.2), which costs work of its own. In "cosine" the noisy latent itself is: its x0 and its noise
            become the low band of the large latent, and fresh white noise fills the new band alone (SPEED).
            `upsampling` and `noise` have no say there.
        shift: noise over signal at low steps is multiplied by beta ** shift. A pixel of a small latent is the mean of
            1 / beta ** 2 pixels, so at 1 a switch leads to the level at which the large latent tells as much of the
            image (Stable Diffusion 3, Section 5.3.2; MegaFusion, Section 3.3; Bottleneck Sampling and RALU shift
            too). The levels then rise at a switch, so it needs history="reset" and a solver with a list of levels.
        spectrum: for switch="auto", the power law of the model's clean latents at this size: the name of a shipped
            one (configs/spectra), the file that `experiments/calibrate.py mixed_resolution` makes, or its numbers.
        tolerance: for switch="auto", by how much, in the mean square, the prediction of what small latents do not
            hold may differ from that of pure noise. A stage ends at the first step where it would differ by more.
        strict: for switch="auto", ask so after the switch, where noise over signal is higher by the ratio of the
            sides. The published rule asks before it, so that the tolerance really used is less, a quarter at 1/2.

    Equation:
        \begin{array}{l} x_t = \alpha_t \, \mathrm{up}(\hat x_0) + \sigma_t \, \epsilon, \qquad
        \hat x_0 = (x_s - \sigma_s \, \epsilon_\theta(x_s)) / \alpha_s \quad \text{at the last low step } s \\
        \text{cosine: } \mathrm{up}(x) = r E x E^\top, \quad
        \epsilon = E \hat\epsilon E^\top + n - E E^\top n E E^\top, \quad r = \sqrt{HW / hw} \\
        \text{aligned: } \sigma_t' / \alpha_t' = r \, \sigma_t / \alpha_t \\
        \text{auto: } \sigma_t / \alpha_t \le \sqrt{P (1 + P - \delta) / \delta}, \quad
        P = A \omega^{-b} \end{array}

    Works on:
        Every family; `space` "pixel" needs a pipeline whose VAE encodes and decodes.

    Oracle:
        A native run at the low size for the low phase, bit for bit for deterministic solvers, and loops written over
        network and solver for the whole run. For cosine also the enlarged noisy latent, written with matrices.

    Reference:
        Du, Fu, Wang et al., "Fewer Denoising Steps or Cheaper Per-Step Inference", ICCV 2025, arXiv:2508.06160,
        mixed-resolution denoising; x0 by its Eq. 2. MegaFusion: arXiv:2408.11001; RALU: arXiv:2507.08422; Bottleneck
        Sampling: arXiv:2503.18940; Pyramidal Flow Matching: arXiv:2410.05954; Stable Diffusion 3: arXiv:2403.03206;
        SPEED, spectral progressive diffusion: arXiv:2605.18736.
    """

    beta: float | list[float] = 0.5
    switch: float | int | list[float | int] | Literal["auto"] = 0.5
    upsampling: Literal["bilinear", "bicubic", "nearest-exact"] = "bilinear"
    x0: Literal["guided", "conditional"] = "guided"
    noise: Literal["fresh", "shared", "upsampled", "correlated"] = "fresh"
    renoise: Literal["next", "current", "aligned"] = "next"
    history: Literal["keep", "bilinear", "reset"] = "bilinear"
    micro_conditioning: Literal["full", "low"] = "full"
    space: Literal["latent", "pixel", "cosine"] = later("latent")
    shift: float = later(0.0)
    spectrum: str | dict[str, float] | None = later(None)  # noqa: RUF009
    tolerance: float = later(0.01)
    strict: bool = later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_stages(self, "beta", "switch")
        require(self, 0 <= self.shift <= 2, "shift", "from 0 to 2")
        if self.shift:
            require(self, self.renoise == "next", "renoise", "'next' where shift is not 0")
            require(self, self.history == "reset", "history", "'reset' where shift is not 0: levels rise at a switch")
            require(self, self.switch != "auto", "switch", "no 'auto' where shift is not 0")
        if self.space == "cosine":
            require(self, self.upsampling == "bilinear", "upsampling", "left out where space is 'cosine'")
            require(self, self.noise == "fresh", "noise", "left out where space is 'cosine'")
        require(self, 0 < self.tolerance < 1, "tolerance", "between 0 and 1, both excluded")
        if isinstance(self.spectrum, str):
            self.spectrum = _spectrum(self.spectrum)
        if self.spectrum is not None:
            self._law()
        require(self, self.spectrum is not None or self.switch != "auto", "spectrum", "given where switch is 'auto'")

    def claims(self, network: nn.Module) -> tuple[str, ...]:
        return ("latent size",)

    def attach(self, network: nn.Module, state: State) -> Iterable[AbstractContextManager[None]]:
        side = getattr(network.config, "patch_size", None) or 1
        self._patch = side if isinstance(side, int) else side[-1]  # of a video (frames, height, width)
        self._block = packing.SIDE if state.family.packed else 1
        self._patch = max(self._patch, self._block)
        if self.space == "pixel":
            pixel_space.check(state.vae, "MixedResolution")
        law = None if self.spectrum is None else self._law()
        self._schedule = Schedule(
            listed(self.beta),
            self.switch,
            self.shift,
            self.renoise == "aligned",
            law,
            self.tolerance,
            self.strict,
            "MixedResolution",
        )
        self._axes = Axes(self.space, self.upsampling, self.noise, self.renoise, self._block)
        return self._schedule.attach(state)

    def start(self, state: State) -> None:
        ends, raises = self._schedule.ends(state), self._schedule.raises
        self._stages = size_plan.plan(listed(self.beta), ends, state.full_size, self._patch, "MixedResolution")
        if not ends:
            return
        for used, option, instead in (
            (self.noise == "shared", "noise='shared'", "'fresh'"),
            (self.shift, "shift", "0"),
            (raises, "renoise='aligned'", "'next'"),
        ):
            if used and state.start:
                raise UsageError(f"MixedResolution: {option} needs a run that starts from pure noise; use {instead}")
        if self.x0 == "conditional" and state.family.prediction == "other":
            raise _changed_in_between()
        noise_levels.check(state.scheduler)
        history.check(state.scheduler, "keep" if raises else self.history)
        if raises:
            level_shift.check_raised(state.scheduler, self._schedule.raised is not None, state.steps)
        state.boundaries.update(ends)

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        stage = self._stage(state)
        if stage is None:
            return forward(sample, kwargs)
        kwargs = conform(kwargs, state.family.resize, state.full_size, stage.size, self._patch)
        if self.micro_conditioning == "low":
            kwargs = scale_pixels(kwargs, state.family.pixels, state.full_size, stage.size)
        output = forward(resize(sample, stage.size, block=self._block), kwargs)
        if self.x0 == "conditional" and not state.extra and (not state.separate or state.branches == ("cond",)):
            # Another method may compute a single branch, whichever, in the place of all: then that is the prediction.
            place = state.branches.index("cond") if "cond" in state.branches else 0
            found = split_rows(output, len(state.branches))[place]
            self._conditional = -found if state.family.prediction == "negated" else found
        return resize(output, state.full_size, block=self._block)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        stage = self._stage(state)
        return forward(kwargs if stage is None else shrink_control(kwargs, state.full_size, stage.size))

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        if state.index == 0:
            self._axes.note_first(sample, state)
        stage = self._stage(state)
        if stage is None:
            return forward(output, timestep, sample)
        output, sample = (resize(value, stage.size, block=self._block) for value in (output, sample))
        taken = None
        if state.index == stage.end - 1:
            # Before the solver moves on: sigma-based schedulers answer for their current step.
            now = torch.as_tensor(timestep, device=sample.device)
            taken = seen = noise_levels.estimate(state.scheduler, output, now, sample)
            if self.x0 == "conditional":
                if len(state.all_branches) == 1 and not torch.equal(self._conditional[:, : output.shape[1]], output):
                    raise _changed_in_between()
                taken = noise_levels.estimate(state.scheduler, self._conditional, now, sample)
        output, sample = (resize(value, state.full_size, block=self._block) for value in (output, sample))
        moved = forward(output, timestep, sample)
        return moved if taken is None else self._enlarge(taken, seen, stage.larger, state)

    def _enlarge(self, low: Estimate, seen: Estimate, large: size_plan.Size, state: State) -> Tensor:
        """x_t = alpha_t up(x0) + sigma_t eps; what the solver remembers, of `seen`, is brought along."""
        x0 = self._axes.enlarged(low.x0, large, state)
        alpha, sigma = self._axes.level(low, state)
        noise = self._axes.eps(low, x0, state)
        if self.history == "reset" or self._schedule.raises:
            history.reset(state.scheduler)
        elif self.history == "bilinear":
            history.enlarge(state.scheduler, seen, noise, state.full_size, self._block)
        history.forget_last_sample(state.scheduler)
        return resize((alpha * x0 + sigma * noise).to(x0.dtype), state.full_size, block=self._block)

    def _stage(self, state: State) -> size_plan.ResolutionStage | None:
        return next((stage for stage in self._stages if state.index < stage.end), None)

    def _law(self) -> power_law.PowerLaw:
        return power_law.power_law(self.spectrum, "MixedResolution")


def _spectrum(name: str) -> Any:
    """Of a file of `configs/spectra`, or of one that `experiments/calibrate.py` has made."""
    if name in catalog.names("spectra"):
        return catalog.read(catalog.path("spectra", name)).get("spectrum")
    return read_calibration(name, "spectrum", "MixedResolution")


def _changed_in_between() -> UsageError:
    return UsageError(
        "MixedResolution: this pipeline changes what its network predicts before its solver sees it, so x0 of one "
        "branch is not known; use x0='guided'"
    )
