"""Every kind of solver with a network that looks at little, or that knows the clean image."""

from __future__ import annotations

import functools

import torch

from postdiff import accelerate
from tests.support import tiny
from tests.support.recorder import Recorder
from tests.support.solvers import solver

__all__ = [
    "EVERY", "SOLVERS", "STEPS", "STOCHASTIC", "UNRESETTABLE", "V", "case_of", "cheap", "perfect", "pipe_of", "run",
    "take_over", "true_level",
]  # fmt: skip

STEPS = 8
V = {"prediction_type": "v_prediction"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SMALLEST_LAST = {"final_sigmas_type": "sigma_min"}
SOLVERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddim_v": ("DDIMScheduler", V),
    "ddim_threshold": ("DDIMScheduler", {"thresholding": True}),
    "dpm++2": ("DPMSolverMultistepScheduler", {}),
    "dpm++3_karras": ("DPMSolverMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
    "dpm_noise": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", **SMALLEST_LAST}),
    "dpm_flow": ("DPMSolverMultistepScheduler", FLOW),
    "singlestep2": ("DPMSolverSinglestepScheduler", {}),
    "singlestep3": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "unipc_noise": ("UniPCMultistepScheduler", {"predict_x0": False, **SMALLEST_LAST}),
    "unipc_flow": ("UniPCMultistepScheduler", FLOW),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_v": ("EulerDiscreteScheduler", V),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm_prk": ("PNDMScheduler", {}),
    "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpm": ("EDMDPMSolverMultistepScheduler", {}),
    "edm_v": ("EDMEulerScheduler", V),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
}
STOCHASTIC = {
    "ddpm": ("DDPMScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "sa": ("SASolverScheduler", {}),
    "flow_lcm": ("FlowMatchLCMScheduler", {}),
    # Its network's velocities are extrapolated as they are, which is not exact for any network.
    "pndm_v": ("PNDMScheduler", {"skip_prk_steps": True, **V}),
}
EVERY = SOLVERS | STOCHASTIC
UNRESETTABLE = {"lms", "pndm", "pndm_prk", "pndm_v"}


@functools.cache
def pipe_of(name):
    """A tiny pipeline, shared: its solver and network are exchanged."""
    return tiny.build(name, small=True)


def case_of(name):
    """A pipeline with the solver; those of flow matching have no place in Stable Diffusion's."""
    cls, settings = EVERY[name]
    one = pipe_of("sd3" if cls.startswith("FlowMatch") else "sd")
    one.pipe.scheduler = solver(cls, **settings)
    return one


WEIGHTS = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(11)) / 6


def cheap(inputs, timestep, text):
    """In the place of a network: looks at neighbours, time and text."""
    seen = torch.nn.functional.conv2d(inputs, WEIGHTS, padding=1).tanh()
    return seen * (1 + 1e-3 * timestep) + text.mean((1, 2)).view(-1, 1, 1, 1)


def take_over(one, predict, monkeypatch):
    """Let `predict(inputs, timestep, text)` stand in the place of the pipeline's network."""

    def unet(sample, timestep, encoder_hidden_states=None, **others):
        return (predict(sample, timestep.flatten()[0], encoder_hidden_states),)

    def transformer(hidden_states, timestep=None, encoder_hidden_states=None, **others):
        return (predict(hidden_states, timestep.flatten()[0], encoder_hidden_states),)

    if hasattr(one.pipe, "unet"):
        monkeypatch.setattr(one.pipe.unet, "forward", unet)
    else:
        monkeypatch.setattr(one.pipe.transformer, "forward", transformer)


def true_level(scheduler, timestep):
    """(alpha, sigma) of the latents at hand, from the lists and definitions of each kind of solver."""
    place = getattr(scheduler, "_step_index", None) or getattr(scheduler, "_begin_index", None) or 0
    if not hasattr(scheduler, "sigmas"):
        kept = scheduler.alphas_cumprod[timestep]
        return kept.sqrt(), (1 - kept).sqrt()
    sigma = scheduler.sigmas[place]
    if "KDPM2D" in type(scheduler).__name__ and place % 2:
        sigma = (scheduler.sigmas[place - 1] * sigma).sqrt()
    if hasattr(scheduler, "scale_noise") or getattr(scheduler.config, "use_flow_sigmas", False):
        return 1 - sigma, sigma
    if hasattr(scheduler, "scale_model_input") and grows(scheduler):
        return torch.tensor(1.0), sigma
    return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()


def grows(scheduler):
    """Whether latents grow with the noise level, so that the network is given scaled ones."""
    return any(word in type(scheduler).__name__ for word in ("Euler", "Heun", "KDPM2", "LMS", "EDM"))


def perfect(scheduler, clean):
    """What a network predicts that knows the clean image, (rows, C, 1, 1), from its input and timestep."""

    def predict(inputs, timestep, text):
        alpha, sigma = true_level(scheduler, timestep)
        data = getattr(scheduler.config, "sigma_data", 1.0)
        latents = inputs * (sigma**2 + data**2).sqrt() if grows(scheduler) and "Flow" not in name else inputs
        x0 = clean.repeat(len(inputs) // len(clean), 1, 1, 1)
        noise = (latents - alpha * x0) / sigma
        kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
        if hasattr(scheduler, "precondition_outputs"):
            sign = -1 if kind == "v_prediction" else 1
            skip, out = data**2 / (sigma**2 + data**2), sign * sigma * data / (sigma**2 + data**2).sqrt()
            return (x0 - skip * latents) / out
        if kind == "v_prediction":
            return (alpha * noise - sigma * x0) / (alpha**2 + sigma**2).sqrt()
        return {"epsilon": noise, "flow_prediction": noise - x0}[kind]

    name = type(scheduler).__name__
    return predict


def run(one, methods, **changes):
    """(result, latents after every step, levels that they should have, boundaries)."""
    latents, levels, recorder = [], [], Recorder()

    def note(pipe, index, timestep, given):
        latents.append(given["latents"].clone())
        following = pipe.scheduler.timesteps[index + 1 : index + 2]
        levels.append(true_level(pipe.scheduler, following[0]) if len(following) else None)
        return given

    noted = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": ["latents"]}
    driver = accelerate(one.pipe, [*methods, recorder])
    result = one.call(driver, num_inference_steps=STEPS, **noted, **changes)
    return result, latents, levels, recorder.boundaries
