"""Noise levels of any scheduler, by asking the scheduler itself.

A noisy sample is `x = alpha * x0 + sigma * noise`. Instead of naming scheduler classes, the two numbers are probed:
`alpha = add_noise(1, 0)`, `sigma = add_noise(0, 1)`. That gives them in the scheduler's own coordinates, be they
variance preserving (DDIM, DPM-Solver++), variance exploding (Euler, Heun) or a flow.

Sigma-based schedulers ignore the timestep once a run has begun and answer for their own `step_index`: call these
functions before `scheduler.step` for the level of the current sample, and after it for the level of the next one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError

__all__ = ["Estimate", "estimate", "level", "predict_x0", "ratios"]


def level(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (alpha, sigma) at `timestep`, as float32 scalars on the timestep's device."""
    one = torch.ones(1, 1, 1, 1, device=timestep.device)
    mix = getattr(scheduler, "add_noise", None) or (lambda x0, n, t: scheduler.scale_noise(x0, t, n))
    at = timestep.reshape(1)
    alpha = mix(one, torch.zeros_like(one), at)
    sigma = mix(torch.zeros_like(one), one, at)
    return alpha.reshape(()), sigma.reshape(())


def ratios(scheduler: Any, timesteps: Tensor) -> list[float]:
    """Noise over signal, sigma / alpha, at each of the timesteps (steps,), also before or within a run."""
    probe = copy.copy(scheduler)
    # Without a place in a run, a sigma-based scheduler looks its level up by the timestep.
    probe._step_index = probe._begin_index = None
    return [float(sigma / alpha) for alpha, sigma in (level(probe, timestep) for timestep in timesteps)]


def predict_x0(scheduler: Any, prediction: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
    """The clean-latent estimate behind one network prediction (PostDiff, Eq. 2, for every parametrisation).

    Args:
        scheduler: tells the parametrisation (`config.prediction_type`; none means flow velocity) and the level.
        prediction: network output after guidance; channels beyond the sample's (learned variance) are ignored.
        timestep: scalar tensor.
        sample: noisy latents, same rows and size as `prediction`.

    Raises:
        UsageError: a parametrisation that is not known here.
    """
    prediction = prediction[:, : sample.shape[1]]
    alpha, sigma = (value.to(sample.dtype) for value in level(scheduler, timestep))
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    if kind == "epsilon":
        return (sample - sigma * prediction) / alpha
    if kind == "v_prediction":
        # In a variance-preserving scheduler the norm is 1; a variance-exploding one keeps x0 + sigma * noise.
        norm = alpha**2 + sigma**2
        return alpha / norm * sample - sigma / norm.sqrt() * prediction
    if kind == "sample":
        return prediction
    if kind == "flow_prediction":
        return sample - sigma * prediction
    raise UsageError(
        f"{type(scheduler).__name__} predicts '{kind}', from which x0 is not known; use epsilon or v_prediction"
    )


@dataclass(frozen=True)
class Estimate:
    """A noisy sample taken apart, `x = alpha * x0 + sigma * noise`; alpha and sigma are scalars."""

    x0: Tensor
    noise: Tensor
    alpha: Tensor
    sigma: Tensor


def estimate(scheduler: Any, prediction: Tensor, timestep: Tensor, sample: Tensor) -> Estimate:
    """Take `sample` apart by the network's prediction; arguments as those of `predict_x0`.

    A prediction with fewer rows than the sample stands for all of its copies (DiT steps both guidance halves).
    """
    prediction = prediction.repeat(len(sample) // len(prediction), *[1] * (sample.ndim - 1))
    x0 = predict_x0(scheduler, prediction, timestep, sample)
    alpha, sigma = level(scheduler, timestep)
    return Estimate(x0, (sample - alpha * x0) / sigma, alpha, sigma)
