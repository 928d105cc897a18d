"""Solvers by name. The model's own settings (prediction type, noise schedule, spacing) are carried over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

from postdiff.engine.errors import UsageError, unknown

__all__ = ["SCHEDULERS", "build", "check", "find", "layered", "stand_in"]

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


class Solver(Protocol):
    """A solver as configs name it; `postdiff.lab.settings.config.SchedulerConfig` is made from what stands here."""

    name: str | None
    options: dict[str, Any]


def find(name: str) -> str:
    """The diffusers class of that name.

    Raises:
        UsageError: no such scheduler; the nearest name is suggested.
    """
    if name not in SCHEDULERS:
        raise unknown("scheduler", name, SCHEDULERS)
    return SCHEDULERS[name]


def check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse NaN, whichever scheduler the options are for; infinity is the usual value of some.

    Raises:
        UsageError: an option is NaN, or a list that holds it.
    """
    for option, value in options.items():
        if any(number != number for number in (value if isinstance(value, list) else [value])):
            raise UsageError(f"scheduler option {option}={value} is not a number; give one, or leave it out")


def check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the scheduler does not have.

    Raises:
        UsageError: unknown scheduler or option; the nearest name is suggested.
    """
    import diffusers

    _check(getattr(diffusers, find(name)), name, options)


def _check(cls: Any, name: str, options: Mapping[str, Any]) -> None:
    known = [key for key in inspect.signature(cls.__init__).parameters if key != "self"]
    for option in options:
        if option not in known:
            raise unknown(f"option of scheduler {name}", option, known)


def build(present: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """The named scheduler (None: the class of `present`) with `options` laid over the settings of `present`.

    Raises:
        UsageError: an option that the scheduler does not have, settings that it refuses, or a solver of flows for
            a diffusion model.
    """
    import diffusers

    if name is None and not options:
        return present
    cls = type(present) if name is None else getattr(diffusers, find(name))
    _check(cls, name or cls.__name__, options)
    settings = dict(options)
    if "clip_sample" not in present.config and "clip_sample" in inspect.signature(cls.__init__).parameters:
        # DDIM and DDPM clip the clean estimate to [-1, 1] unless told otherwise, which ruins latents; a model whose own
        # scheduler does not know of clipping was not made for it.
        settings.setdefault("clip_sample", False)
    try:
        built = cls.from_config(present.config, **settings)
    except (ValueError, NotImplementedError, TypeError, RuntimeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"
        raise UsageError(f"scheduler {name or cls.__name__} with {given} does not fit this model: {error}") from error
    # Pipelines of diffusion models scale their first noise by this number, which schedulers of flows do not have.
    if hasattr(present, "init_noise_sigma") and not hasattr(built, "init_noise_sigma"):
        raise UsageError(
            f"scheduler {name} is for flow matching, this model was trained for diffusion; use another one"
        )
    return built


def layered(present: Any, *solvers: Solver) -> Any:
    """`build` for several configs one over another: the model card's and the run's, say.

    Raises:
        UsageError: a scheduler refuses its settings.
    """
    for solver in solvers:
        present = build(present, solver.name, solver.options)
    return present


def stand_in() -> Any:
    """The solver that cards and runs are laid over where there is no folder to read the model's own from."""
    import diffusers

    return diffusers.DPMSolverMultistepScheduler(steps_offset=1)
