"""What solvers remember of earlier steps, and how to bring it over a change of resolution.

Multistep solvers remember predictions: of x0 (DPM-Solver++, UniPC), of the noise (DPM-Solver, DEIS, LMS) or as the
network makes them (PNDM). Others, within a step of several network calls, remember the sample that it began with and go
back to it, whatever sample they are handed (Heun, DPM-Solver-2, DPM-Solver singlestep, PNDM's warm-up).
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize
from postdiff.engine.noise_levels import Estimate

__all__ = ["can_reset", "check", "enlarge", "forget_last_sample", "reset", "starts_afresh"]

Size = tuple[int, int]

# Lists of past predictions: DPM-Solver(++), UniPC, DEIS, SA-Solver; PNDM; LMS. The first is of fixed length.
_LISTS = ("model_outputs", "ets", "derivatives")


def starts_afresh(scheduler: Any, step: int, start: int = 0) -> bool:
    """Whether a step begins with the sample that the solver is handed, not with one that it remembers.

    Args:
        scheduler: whose timesteps are set.
        step: solver call of this run.
        start: where the run begins in `scheduler.timesteps`.
    """
    orders = getattr(scheduler, "order_list", None)
    if orders is not None:  # DPM-Solver singlestep: a step of order n is n calls, each of an order one higher
        return start + step >= len(orders) or orders[start + step] == 1
    warm_up = getattr(scheduler, "prk_timesteps", None)
    if warm_up is not None:  # PNDM counts its own calls: Runge-Kutta steps of four each, or one first step taken twice
        return step >= len(warm_up) or step % 4 == 0 if len(warm_up) else step != 1
    return step % getattr(scheduler, "order", 1) == 0


def check(scheduler: Any, policy: str) -> None:
    """Refuse, before anything runs, what could not be brought over a change of resolution.

    Args:
        scheduler: the pipeline's.
        policy: "keep", "bilinear" or "reset".

    Raises:
        UsageError: the pipeline keeps the history itself, the solver enlarges latents itself, or it cannot be reset.
    """
    name = type(scheduler).__name__
    if "old_pred_original_sample" in inspect.signature(type(scheduler).step).parameters:
        raise UsageError(f"{name}'s history is kept by the pipeline, out of reach of a change of size; use DDIM")
    if getattr(scheduler.config, "scale_factors", None):
        raise UsageError(f"{name} changes the size of latents itself; leave out its scale_factors")
    if policy == "reset" and not can_reset(scheduler):
        raise UsageError(f"{name} cannot drop its history in mid-run; use history='keep' or 'bilinear'")


def can_reset(scheduler: Any) -> bool:
    """Whether the solver can start again from nothing with a step of first order.

    PNDM's warm-up needs timesteps of its own, and LMS takes its order from the place in the run, not from what it has.
    """
    return not hasattr(scheduler, "prk_timesteps") and not hasattr(scheduler, "derivatives")


def reset(scheduler: Any) -> None:
    """Forget every earlier prediction, so that the next step is that of a run that starts there.

    Raises:
        UsageError: the solver cannot start again in mid-run.
    """
    check(scheduler, "reset")
    for name in _LISTS:
        past = getattr(scheduler, name, None)
        if isinstance(past, list):
            setattr(scheduler, name, [None] * len(past) if name == "model_outputs" else [])
    if hasattr(scheduler, "lower_order_nums"):
        scheduler.lower_order_nums = 0


def forget_last_sample(scheduler: Any) -> None:
    """UniPC's and SA-Solver's correctors would rebuild the sample from the one before, and lose the fresh noise."""
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = None


def enlarge(scheduler: Any, low: Estimate, noise: Tensor, full: Size, block: int) -> None:
    """Enlarge, bilinear, the predictions that a solver remembers, held replicated over a larger grid.

    An enlarged noise would not be the noise of the new latents, from which the next step extrapolates. So noise in what
    is remembered gives way to that of the new latents, and only by what it differed from the last is enlarged.

    Args:
        scheduler: after its last step on the small grid.
        low: the small latents of that step, taken apart by the prediction that the solver was given.
        noise: that of the new latents, of the next grid's size.
        full: size at which predictions are held.
        block: side of the squares that are replicated as a whole.
    """
    small, large = ((each.shape[-2], each.shape[-1]) for each in (low.x0, noise))
    for name in _LISTS:
        past = getattr(scheduler, name, None) or []
        known = [item for item in past if isinstance(item, Tensor)]
        if not known:
            continue
        share = _share_of_noise(resize(known[-1], small, block=block), low)
        other = share * (noise - resize(low.noise, large, "bilinear")) if share else None
        setattr(scheduler, name, [_enlarged(item, small, large, full, block, other) for item in past])


def _enlarged(item: Any, small: Size, large: Size, full: Size, block: int, other: Tensor | None) -> Any:
    if not isinstance(item, Tensor):
        return item
    grown = resize(resize(item, small, block=block), large, "bilinear")
    return resize(grown if other is None else grown + other.to(grown.dtype), full, block=block)


def _share_of_noise(prediction: Tensor, low: Estimate) -> float:
    """How much of the noise a prediction holds: 0 if it is one of x0, 1 of the noise, alpha of the velocity."""
    clean, noise, predicted = (value.float().flatten() for value in (low.x0, low.noise, prediction))
    noise = noise - clean * (clean @ noise) / (clean @ clean).clamp(min=1e-12)
    share = float((predicted @ noise) / (noise @ noise).clamp(min=1e-12))
    return share if abs(share) > 0.01 else 0.0
