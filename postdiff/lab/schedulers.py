"""Solvers by name. The model's own settings (prediction type, noise schedule, spacing) are carried over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from postdiff.engine.errors import UsageError, unknown

__all__ = ["SCHEDULERS", "build", "check", "find"]

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
    "dpm_solver_single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "flow_match_euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def find(name: str) -> str:
    """The diffusers class of that name.

    Raises:
        UsageError: no such scheduler; the nearest name is suggested.
    """
    if name not in SCHEDULERS:
        raise unknown("scheduler", name, SCHEDULERS)
    return SCHEDULERS[name]


def check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the scheduler does not have.

    Raises:
        UsageError: unknown scheduler or option; the nearest name is suggested.
    """
    import diffusers

    known = [key for key in inspect.signature(getattr(diffusers, find(name)).__init__).parameters if key != "self"]
    for option in options:
        if option not in known:
            raise unknown(f"option of scheduler {name}", option, known)


def build(present: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """The named scheduler (None: the class of `present`) with `options` laid over the settings of `present`.

    Raises:
        UsageError: the scheduler refuses its settings.
    """
    import diffusers

    if name is None and not options:
        return present
    cls = type(present) if name is None else getattr(diffusers, find(name))
    try:
        return cls.from_config(present.config, **options)
    except (ValueError, NotImplementedError, TypeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"
        raise UsageError(f"scheduler {name or cls.__name__} with {given} does not fit this model: {error}") from error
