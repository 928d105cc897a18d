"""Every solver of diffusers in the settings that change its clean estimate or its noise levels, and those refused."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import diffusers
from diffusers import schedulers

from tests.support.parts import BETAS

Settings = dict[str, Any]


def _each(*groups: list[Settings]) -> list[Settings]:
    """One of each group, together, in every combination."""
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*groups)]


def _one_of(name: str, *values: Any) -> list[Settings]:
    return [{name: value} for value in values]


_NOISE_OR_V = _one_of("prediction_type", "epsilon", "v_prediction")
_REPORTED = _one_of("prediction_type", "epsilon", "v_prediction", "sample")
_KARRAS, _THRESHOLD, _CLIP = {"use_karras_sigmas": True}, {"thresholding": True}, {"clip_sample": True}
_SPACED: list[Settings] = [{}, _KARRAS, {"use_exponential_sigmas": True}]
_BETA = {"use_beta_sigmas": True}  # slow to make
_OF_NOISE = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_THIRD = {"solver_order": 3}
_FLOW = _each(
    [{"use_flow_sigmas": True, "flow_shift": 3.0}],
    _one_of("prediction_type", "flow_prediction", "epsilon", "v_prediction"),
)

SERVED: dict[str, list[Settings]] = {
    "DDIMScheduler": _each(_REPORTED, [{}, _THRESHOLD, _CLIP, {"timestep_spacing": "trailing"}]),
    "DDIMParallelScheduler": _each(_REPORTED, [{}, _THRESHOLD, _CLIP]),
    "DDPMScheduler": _each(_REPORTED, [{}, _THRESHOLD, _CLIP]),
    "DDPMParallelScheduler": _each(_REPORTED, [{}, _THRESHOLD, _CLIP]),
    "CogVideoXDDIMScheduler": _each(_REPORTED, [{}, _CLIP]),
    "CogVideoXDPMScheduler": _each(_REPORTED, [{}, _CLIP]),
    "LCMScheduler": _each(_REPORTED, [{}, _THRESHOLD, _CLIP]),
    "TCDScheduler": _each(_REPORTED, [{}, _THRESHOLD, _CLIP]),
    "PNDMScheduler": _each(_NOISE_OR_V, _one_of("skip_prk_steps", True, False)),
    "UnCLIPScheduler": _each(_one_of("prediction_type", "epsilon", "sample"), [{}, _CLIP]),
    "EulerDiscreteScheduler": [
        *_each(_REPORTED, [*_SPACED, _BETA, {"final_sigmas_type": "sigma_min"}, {"interpolation_type": "log_linear"}]),
        {"prediction_type": "v_prediction", "timestep_type": "continuous"},
    ],
    "EulerAncestralDiscreteScheduler": _NOISE_OR_V,
    "HeunDiscreteScheduler": _each(_REPORTED, [*_SPACED, _CLIP]),
    "KDPM2DiscreteScheduler": _each(_NOISE_OR_V, _SPACED),
    "KDPM2AncestralDiscreteScheduler": _each(_NOISE_OR_V, _SPACED),
    "DPMSolverSDEScheduler": _each(_NOISE_OR_V, _SPACED),
    "LMSDiscreteScheduler": _each(_REPORTED, _SPACED),
    "DPMSolverMultistepScheduler": [
        *_each(
            _REPORTED, [*_SPACED, {"use_lu_lambdas": True}, _THRESHOLD, _SDE, _OF_NOISE, {**_OF_NOISE, **_THRESHOLD}]
        ),
        *_FLOW,
        _THIRD,
    ],
    "DPMSolverMultistepInverseScheduler": _each(_REPORTED, [*_SPACED, _THRESHOLD]),
    "DPMSolverSinglestepScheduler": [
        *_each(_REPORTED, [*_SPACED, _THRESHOLD, _SDE, _THIRD, {**_THIRD, **_KARRAS}, _OF_NOISE]),
        *_FLOW,
    ],
    "DEISMultistepScheduler": [*_each(_REPORTED, [*_SPACED, _THRESHOLD]), *_FLOW],
    "UniPCMultistepScheduler": [
        *_each(_REPORTED, [*_SPACED, _BETA, _THRESHOLD]),
        *_each(_REPORTED, [{"predict_x0": False, "final_sigmas_type": "sigma_min"}], [{}, _KARRAS, _THRESHOLD]),
        *_FLOW,
    ],
    "SASolverScheduler": [
        *_each(_REPORTED, [*_SPACED, _THRESHOLD, {"algorithm_type": "noise_prediction"}]),
        *_FLOW,
    ],
    "EDMEulerScheduler": _each(_NOISE_OR_V, [{}, {"sigma_schedule": "exponential"}, {"sigma_data": 1.0}]),
    "EDMDPMSolverMultistepScheduler": _each(_NOISE_OR_V, [{}, _SDE, {"sigma_schedule": "exponential"}, _THRESHOLD]),
    "CosineDPMSolverMultistepScheduler": _NOISE_OR_V,
    "FlowMatchEulerDiscreteScheduler": _each([{}, {"shift": 3.0}], [{}, {"stochastic_sampling": True}]),
    "FlowMatchHeunDiscreteScheduler": [{}, {"shift": 3.0}],
    "FlowMatchLCMScheduler": [{}, {"shift": 3.0}],
    "FlowMapEulerDiscreteScheduler": [{}],
}
# What they are made with, and why they are refused.
_UNREPORTED, _NO_LEVEL = "does not tell what its network predicts", "tells no noise level"
REFUSED: dict[str, tuple[Settings, str]] = {
    "AmusedScheduler": ({"mask_token_id": 9}, _UNREPORTED),
    "BlockRefinementScheduler": ({}, _UNREPORTED),
    "CMStochasticIterativeScheduler": ({}, _UNREPORTED),
    "ConsistencyDecoderScheduler": ({}, _UNREPORTED),
    "DDIMInverseScheduler": ({}, _NO_LEVEL),
    "DDPMWuerstchenScheduler": ({}, _UNREPORTED),
    "DiscreteDDIMScheduler": ({}, _UNREPORTED),
    "EntropyBoundScheduler": ({}, _UNREPORTED),
    "HeliosDMDScheduler": ({}, _NO_LEVEL),
    "HeliosScheduler": ({}, _NO_LEVEL),
    "IPNDMScheduler": ({}, _UNREPORTED),
    "KarrasVeScheduler": ({}, _UNREPORTED),
    "LTXEulerAncestralRFScheduler": ({}, _UNREPORTED),
    "MiniMaxH3Scheduler": ({}, _UNREPORTED),
    "PiflowScheduler": ({}, _UNREPORTED),
    "RFD4ProteinaScheduler": (
        {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
        _UNREPORTED,
    ),
    "RePaintScheduler": ({}, _UNREPORTED),
    "SCMScheduler": ({}, "predicts 'trigflow'"),
    "VQDiffusionScheduler": ({"num_vec_classes": 9}, _UNREPORTED),
}
# They need a library that may not be there.
ABSENT = {name for name in SERVED if hasattr(getattr(schedulers, name, None), "_backends")}


def solver(name: str, **settings: Any) -> Any:
    """A scheduler by its class's name, with the noise schedule of Stable Diffusion if it has one to choose."""
    cls = getattr(diffusers, name, None) or getattr(schedulers, name)
    known = inspect.signature(cls.__init__).parameters
    own = {"clip_sample": False} if "clip_sample" in known else {}
    return cls(**{**(BETAS if "beta_start" in known else {}), **own, **settings})
