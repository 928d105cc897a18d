"""Noise levels and clean estimates of any scheduler, by asking the scheduler itself.

A noisy sample is `x = alpha * x0 + sigma * noise`. Instead of naming scheduler classes, the two numbers are probed:
`alpha = add_noise(1, 0)`, `sigma = add_noise(0, 1)`. That gives them in the scheduler's own coordinates, be they
variance preserving (DDIM, DPM-Solver++), variance exploding (Euler, Heun, EDM) or a flow. From them and the kind of the
prediction follows x0, and the scheduler's own precondition, threshold and boundary functions make it the x0 it uses.

Sigma-based schedulers answer for the place in their list at which the run stands, for two steps may share a timestep:
call these functions before `scheduler.step` for the level of the current sample, and after it for that of the next.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError

__all__ = ["Estimate", "check", "estimate", "is_flow", "level", "predict_x0", "prediction_of", "ratios"]

_KINDS = ("epsilon", "v_prediction", "flow_prediction", "sample", "original_sample")
# They have the options in their configuration but limit x0 by none of them.
_UNLIMITED = ("TCDScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")


def level(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (alpha, sigma) at `timestep`, as float32 scalars on the timestep's device.

    Args:
        scheduler: the pipeline's, whose timesteps are set.
        timestep: one element, or the same one for every row of a batch.

    Raises:
        UsageError: the scheduler tells no noise levels, or rows are at different ones.
    """
    timestep = timestep.flatten()
    if len(timestep) > 1 and (timestep != timestep[0]).any():
        raise UsageError(
            f"rows or tokens of this run are at different timesteps, {float(timestep.min()):g} to "
            f"{float(timestep.max()):g}, so there is no one noise level; leave out the methods that need it"
        )
    place = _place(scheduler, timestep[:1])
    halfway = not getattr(scheduler, "state_in_first_order", True) and place == scheduler._step_index
    return _level(scheduler, timestep[:1], place, halfway)


def ratios(scheduler: Any, timesteps: Tensor) -> list[float]:
    """Noise over signal, sigma / alpha, at each of the timesteps (steps,) of a run, also before or within it.

    Raises:
        UsageError: the scheduler tells no noise levels.
    """
    run, every = timesteps.cpu(), scheduler.timesteps.cpu()
    starts = range(len(every) - len(run), -1, -1)
    start = next((start for start in starts if torch.equal(every[start : start + len(run)], run)), None)
    pairs = hasattr(scheduler, "state_in_first_order")
    levels = (
        _level(scheduler, timesteps[i : i + 1], None if start is None else start + i, pairs and i % 2 == 1)
        for i in range(len(run))
    )
    return [float(sigma / alpha) for alpha, sigma in levels]


def check(scheduler: Any) -> None:
    """Ask once, before anything runs, for what `estimate` will need.

    Raises:
        UsageError: the scheduler tells no noise levels, or predicts something from which x0 is not known.
    """
    _kind(scheduler)
    ratios(scheduler, scheduler.timesteps[:1])


def is_flow(scheduler: Any) -> bool:
    """Whether samples are mixed as flows do it, alpha + sigma = 1.

    Raises:
        UsageError: as of `check`.
    """
    return _kind(scheduler) == "flow_prediction" or bool(getattr(scheduler.config, "use_flow_sigmas", False))


def predict_x0(scheduler: Any, prediction: Tensor, timestep: Tensor, sample: Tensor, *, limited: bool = True) -> Tensor:
    """The clean-latent estimate behind one network prediction (PostDiff, Eq. 2, for every parametrisation).

    It is the one that the scheduler steps with: preconditioned (EDM), clipped or thresholded as it is configured, and
    mixed with the sample where consistency models ask for it (LCM).

    Args:
        scheduler: tells the parametrisation (`config.prediction_type`; none means flow velocity) and the level.
        prediction: network output after guidance; channels beyond the sample's (learned variance) are ignored.
        timestep: scalar tensor.
        sample: noisy latents, same rows and size as `prediction`.
        limited: clipped or thresholded as the scheduler does it.

    Returns:
        As `sample`; computed in float32 at least, since x0 is a small difference of large numbers at high noise.

    Raises:
        UsageError: a parametrisation that is not known here, or no noise levels.
    """
    return _clean(scheduler, prediction, timestep, _exact(sample), limited).to(sample.dtype)


def prediction_of(scheduler: Any, x0: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
    """The prediction behind which the clean estimate is `x0`: the inverse of `predict_x0`, but for limits.

    Arguments and errors as those of `predict_x0`. Returns as `sample`.
    """
    noisy = _exact(sample)
    none = torch.zeros_like(noisy)
    # x0 is affine in the prediction, whatever this is of.
    without = _clean(scheduler, none, timestep, noisy, limited=False)
    slope = _clean(scheduler, none + 1, timestep, none, limited=False)
    return ((x0.to(noisy.dtype) - without) / slope).to(sample.dtype)


@dataclass(frozen=True)
class Estimate:
    """A noisy sample taken apart, `x = alpha * x0 + sigma * noise`; alpha and sigma are scalars."""

    x0: Tensor
    noise: Tensor
    alpha: Tensor
    sigma: Tensor


def estimate(scheduler: Any, prediction: Tensor, timestep: Tensor, sample: Tensor) -> Estimate:
    """Take `sample` apart by the network's prediction; arguments as those of `predict_x0`.

    A prediction with fewer rows than the sample stands for all of its copies (DiT steps both guidance halves). Of low
    noise, which is a small difference too, only the result is rounded to the type of `sample`.
    """
    prediction = prediction.repeat(len(sample) // len(prediction), *[1] * (sample.ndim - 1))
    noisy = _exact(sample)
    x0 = _clean(scheduler, prediction, timestep, noisy)
    alpha, sigma = level(scheduler, timestep)
    return Estimate(x0.to(sample.dtype), ((noisy - alpha * x0) / sigma).to(sample.dtype), alpha, sigma)


def _exact(sample: Tensor) -> Tensor:
    return sample.to(torch.promote_types(sample.dtype, torch.float32))


def _clean(scheduler: Any, prediction: Tensor, timestep: Tensor, noisy: Tensor, limited: bool = True) -> Tensor:
    """`predict_x0` in the type of `noisy`."""
    prediction = prediction[:, : noisy.shape[1]].to(noisy.dtype)
    alpha, sigma = (value.to(noisy.dtype) for value in level(scheduler, timestep))
    kind = _kind(scheduler)
    if hasattr(scheduler, "precondition_outputs"):
        x0 = scheduler.precondition_outputs(noisy, prediction, sigma)
    elif kind == "epsilon":
        x0 = (noisy - sigma * prediction) / alpha
    elif kind == "v_prediction":
        # In a variance-preserving scheduler the norm is 1; a variance-exploding one keeps x0 + sigma * noise.
        flow = getattr(scheduler.config, "use_flow_sigmas", False)
        norm = torch.ones_like(alpha) if flow else alpha**2 + sigma**2
        x0 = alpha / norm * noisy - sigma / norm.sqrt() * prediction
    elif kind == "flow_prediction":
        x0 = noisy - sigma * prediction
    else:
        x0 = prediction
    if limited:
        x0 = _limited(scheduler, x0)
    if hasattr(scheduler, "get_scalings_for_boundary_condition_discrete"):
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep.flatten()[0])
        x0 = out * x0 + skip * noisy
    return x0


def _level(scheduler: Any, timestep: Tensor, place: int | None, halfway: bool) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at `timestep` (1,) and, if the scheduler goes by them, at `place` in its lists.

    `halfway`: in the second network call of a second-order step.
    """
    # A copy: asked for noise, schedulers move their tables to the device of what they are given.
    scheduler = copy.copy(scheduler)
    if place is not None:
        scheduler._step_index = scheduler._begin_index = place
    mix, one = _mixer(scheduler), torch.ones(1, 1, 1, 1, device=timestep.device)
    try:
        alpha, sigma = mix(one, torch.zeros_like(one), timestep), mix(torch.zeros_like(one), one, timestep)
    except NotImplementedError:
        raise _reports_none(scheduler) from None
    if place is not None and hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        # SA-Solver adds noise by the timestep, but steps by its list.
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[place])
    between = _between(scheduler, place) if halfway and place is not None else None
    if between is not None:
        sigma = between
    return alpha.to(one).reshape(()), sigma.to(one).reshape(())


def _between(scheduler: Any, place: int) -> Tensor | None:
    """The level within a step at which DPM-Solver-2 evaluates: `sigmas` has the next step's there, as Heun needs."""
    sigmas = getattr(scheduler, "sigmas_interpol", None)
    if sigmas is not None:
        return sigmas[place - hasattr(scheduler, "sigmas_up")]  # those of the ancestral solver start a place earlier
    if hasattr(scheduler, "mid_point_sigma"):
        return (scheduler.sigmas[place - 1] * scheduler.sigmas[place]).sqrt()
    return None


def _mixer(scheduler: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The scheduler's function of (x0, noise, timesteps) that gives the noisy sample."""
    add, scale = getattr(scheduler, "add_noise", None), getattr(scheduler, "scale_noise", None)
    # Solvers of tokens and of videos in stages call something else by this name.
    if add is not None and list(inspect.signature(add).parameters) == ["original_samples", "noise", "timesteps"]:
        return add
    if scale is not None and not getattr(scheduler.config, "invert_sigmas", False):
        if (sigmas := getattr(scheduler, "sigmas", None)) is not None and float(sigmas.max()) > 1:
            # No flow, whose levels end at 1: a pipeline's own x0 + sigma * noise, stepped by a flow's solver.
            return lambda x0, noise, timesteps: x0 + scale(torch.zeros_like(noise), timesteps, noise)
        return lambda x0, noise, timesteps: scale(x0, timesteps, noise)
    raise _reports_none(scheduler)


def _reports_none(scheduler: Any) -> UsageError:
    inverted = " with invert_sigmas" if getattr(scheduler.config, "invert_sigmas", False) else ""
    return UsageError(
        f"{type(scheduler).__name__} tells no noise level{inverted}, and a method of this run needs it; use a solver "
        "that does, such as DDIM, DPM-Solver, Euler, UniPC or FlowMatchEuler"
    )


def _place(scheduler: Any, timestep: Tensor) -> int | None:
    """Where in its lists a sigma-based scheduler stands, or else has `timestep` (1,); None for others."""
    if not hasattr(scheduler, "_step_index"):
        return None
    place, every = scheduler._step_index, scheduler.timesteps
    if place is None:
        place = getattr(scheduler, "_begin_index", None)
    timestep = timestep.to(every.device)
    if place is not None and place < len(every) and bool(every[place] == timestep):
        return int(place)
    return scheduler.index_for_timestep(timestep) if hasattr(scheduler, "index_for_timestep") else None


def _kind(scheduler: Any) -> str:
    """What the network predicts: epsilon, v_prediction, flow_prediction or sample.

    Raises:
        UsageError: something from which x0 is not known.
    """
    kind = getattr(scheduler.config, "prediction_type", None)
    flow = hasattr(scheduler, "scale_noise") and hasattr(scheduler.config, "num_train_timesteps")
    if kind is None and flow:
        return "flow_prediction"
    known = ("epsilon", "v_prediction") if hasattr(scheduler, "precondition_outputs") else _KINDS
    if kind in known:
        return str(kind)
    message = f"predicts '{kind}'" if kind else "does not tell what its network predicts"
    raise UsageError(
        f"{type(scheduler).__name__} {message}, so x0 is not known; use a solver that predicts {' or '.join(known[:2])}"
    )


def _limited(scheduler: Any, x0: Tensor) -> Tensor:
    """Clipped or thresholded as the solver does it to its own."""
    config = scheduler.config
    of_noise = not getattr(scheduler, "predict_x0", True)  # solvers of the noise leave x0 alone
    if of_noise or any(cls.__name__ in _UNLIMITED for cls in type(scheduler).__mro__):
        return x0
    if getattr(config, "thresholding", False):
        return scheduler._threshold_sample(x0)
    if getattr(config, "clip_sample", False):
        return x0.clamp(-config.clip_sample_range, config.clip_sample_range)
    return x0
