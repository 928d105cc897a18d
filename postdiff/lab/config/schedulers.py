"""Solvers by name. The model's own settings (prediction type, noise schedule, spacing) are carried over.

A class of diffusers' kind in `schedulers/NAME.py` of one's own folder is one more (`postdiff.engine.plugins`).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_type_hints

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import fits, spelt
from postdiff.lab.config.layers import checked

__all__ = [
    *("SCHEDULERS", "SchedulerConfig", "build", "check", "check_config", "check_name", "check_numbers", "find"),
    *("layered", "stand_in"),
]

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

FLOWS = "flow_match_euler"
SPACINGS = ("linspace", "leading", "trailing")
MOST = 100_000  # of any whole number among the options
# Ranges that no scheduler checks itself; some go on in silence, others take all memory.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_train_timesteps": (lambda value: 1 <= value <= MOST, f"1 to {MOST}"),
    "solver_order": (lambda value: value in (1, 2, 3), "1, 2 or 3"),
    "steps_offset": (lambda value: 0 <= value <= 1000, "0 to 1000"),
    "beta_start": (lambda value: 0 < value < 1, "a number between 0 and 1"),
    "beta_end": (lambda value: 0 < value < 1, "a number between 0 and 1"),
    "trained_betas": (lambda value: all(0 < beta < 1 for beta in value), "a list of numbers between 0 and 1"),
    "dynamic_thresholding_ratio": (lambda value: 0 <= value <= 1, "0 to 1"),
    "sample_max_value": (lambda value: value > 0, "a number above 0"),
    "clip_sample_range": (lambda value: value > 0, "a number above 0"),
    "timestep_spacing": (lambda value: value in SPACINGS, " or ".join(SPACINGS)),
    "sigma_min": (lambda value: 0 <= value < math.inf, "a number from 0"),
    "sigma_max": (lambda value: 0 < value < math.inf, "a number above 0"),
    "disable_corrector": (lambda value: fits(value, list[int]), "a list of steps"),
    "solver_p": (lambda value: False, "no solver within a solver"),
}
# What the signatures of diffusers say of these is not all that the classes take; they refuse other words themselves.
UNSURE = ("algorithm_type", "solver_type")


def check_name(name: str) -> None:
    """Refuse what names no scheduler, without loading any.

    Raises:
        UsageError: see `plugins.one_file`.
    """
    plugins.one_file("schedulers", name, SCHEDULERS)


def find(name: str) -> Any:
    """The class of that name, of diffusers or of a folder of `POSTDIFF_PATH`.

    Raises:
        UsageError: see `plugins.find`.
    """
    import diffusers

    own = plugins.find("schedulers", name, diffusers.SchedulerMixin, SCHEDULERS)
    return getattr(diffusers, SCHEDULERS[name]) if own is None else own


def check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse what fits no scheduler, whichever the options are for; infinity is the usual value of some.

    Raises:
        UsageError: an option is NaN, a list that holds it, or a number out of all ranges.
    """
    for option, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        if any(number != number for number in numbers):
            raise UsageError(f"scheduler option {option}={shown(value)} is not a number; give one, or leave it out")
        within, message = RANGES.get(option, (lambda value: True, f"whole numbers up to {MOST}"))
        try:
            small = all(not isinstance(one, int) or abs(one) <= MOST for one in numbers)
            fine = value is None or (small and within(value))
        except TypeError:  # not a number at all
            fine = False
        if not fine:
            raise UsageError(f"scheduler option {option}={shown(value)} does not fit this model or any; use {message}")


@dataclass
class SchedulerConfig:
    """The solver: a name of `SCHEDULERS` (null: the model's own) and options laid over the model's."""

    name: Annotated[str, checked(check_name)] | None = None
    options: Annotated[dict[str, Any], checked(check_numbers)] = field(default_factory=dict)


def check(name: str, options: Mapping[str, Any], cls: Any = None) -> None:
    """Refuse options that the scheduler does not have, and values of another type than it has by default.

    Args:
        name: of the scheduler.
        options: of its class.
        cls: the class; None means that of the name.

    Raises:
        UsageError: unknown scheduler or option (the nearest name is suggested), or a value of the wrong type.
    """
    cls = cls or find(name)
    known = {key: each.default for key, each in inspect.signature(cls.__init__).parameters.items() if key != "self"}
    hints = get_type_hints(cls.__init__)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of scheduler {name}", option, known)
        words = [word for word in get_args(hints.get(option)) if isinstance(word, str)]
        if words and option not in UNSURE and value is not None and value not in words:
            raise unknown(f"{option} of scheduler {name}", value, words)
        _check_type(name, option, value, known[option])


def check_config(values: Mapping[str, Any]) -> None:
    """The same of a scheduler's file in a model folder, which may hold keys of other versions.

    Raises:
        UsageError: a value is of the wrong type, or fits no scheduler.
    """
    import diffusers

    cls: Any = getattr(diffusers, str(values.get("_class_name")), object)
    known = inspect.signature(cls.__init__).parameters
    own = {key: value for key, value in values.items() if key in known and value is not None}
    check_numbers(own)
    for option, value in own.items():
        _check_type(str(values["_class_name"]), option, value, known[option].default)


def _check_type(name: str, option: str, value: Any, usual: Any) -> None:
    if type(usual) in (bool, int, float, str) and not fits(value, type(usual)):
        raise UsageError(
            f"scheduler {name} with {option}={shown(value)} does not fit this model or any: it must be "
            f"{spelt(type(usual))}; give another value"
        )


def build(present: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """The named scheduler (None: the class of `present`) with `options` laid over the settings of `present`.

    Raises:
        UsageError: an option that the scheduler does not have, settings that it refuses, or a solver of flows for
            a diffusion model.
    """
    if name is None and not options:
        return present
    cls = type(present) if name is None else find(name)
    check(name or cls.__name__, options, cls)
    check_numbers(options)
    settings = dict(options)
    if "clip_sample" not in present.config and "clip_sample" in inspect.signature(cls.__init__).parameters:
        # DDIM and DDPM clip the clean estimate to [-1, 1] unless told otherwise, which ruins latents; a model whose own
        # scheduler does not know of clipping was not made for it.
        settings.setdefault("clip_sample", False)
    try:
        built = cls.from_config(present.config, **settings)
        if options:
            _try(built)
    except Exception as error:  # whatever the class makes of values that it does not check
        given = ", ".join(f"{key}={shown(value, 30)}" for key, value in options.items()) or "no options"
        raise UsageError(
            f"scheduler {name or cls.__name__} with {given} does not fit this model: {error or type(error).__name__}; "
            "give other values, or leave them out"
        ) from error
    # Pipelines of diffusion models scale their first noise by this number, which schedulers of flows do not have.
    if hasattr(present, "init_noise_sigma") and not hasattr(built, "init_noise_sigma"):
        raise UsageError(
            f"scheduler {name} is for flow matching, this model was trained for diffusion; use another one"
        )
    return built


def _try(built: Any) -> None:
    """A few steps on an image of four pixels: many settings are told only when a run has begun, or never."""
    import torch

    if built.config.get("use_dynamic_shifting"):
        return  # its steps follow from the image's size, which is not known here
    known = built.config.get("num_train_timesteps", MOST)
    learned = built.config.get("variance_type") in ("learned", "learned_range")
    for steps in (4, 2, 1):
        trial = copy.deepcopy(built)
        try:
            trial.set_timesteps(steps)
            break
        except Exception:
            if steps == 1:
                raise
    times = torch.as_tensor(trial.timesteps).double()
    if trial.config.get("timestep_type") != "continuous" and not ((times >= 0) & (times <= known)).all():
        raise ValueError(f"its timesteps {shown(times.tolist())} are not all within the {known} of training")
    with torch.random.fork_rng(devices=[]):
        sample = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        for time in trial.timesteps:
            taken = trial.scale_model_input(sample, time) if hasattr(trial, "scale_model_input") else sample
            output = torch.cat([taken, torch.zeros_like(taken)], 1) if learned else taken
            sample = trial.step(output, time, sample).prev_sample


def layered(present: Any, *solvers: SchedulerConfig) -> Any:
    """`build` for several configs one over another: the model card's and the run's, say.

    Raises:
        UsageError: a scheduler refuses its settings.
    """
    for solver in solvers:
        present = build(present, solver.name, solver.options)
    return present


def stand_in(own: SchedulerConfig | None = None) -> Any:
    """The solver that cards and runs are laid over where there is no folder to read the model's own from.

    Args:
        own: the model card's; where it is one of flows the model is.
    """
    import diffusers

    if own is not None and own.name == FLOWS:
        return diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.DPMSolverMultistepScheduler(steps_offset=1)
