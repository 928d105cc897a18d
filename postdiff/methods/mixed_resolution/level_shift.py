"""Other noise levels for some steps of a run, written into the solver's own list as soon as it has made it.

`shift` of mixed resolution lowers those of all small steps, renoise "aligned" raises that of the step after a switch.

Pipeline, network, solver and every method then read the same levels and timesteps. It needs a solver that keeps a list
of levels (`sigmas`): Euler, Heun, DPM-Solver, UniPC, EDM, flow matching. DDIM, PNDM, DDPM and LCM count from step to
step by fixed strides of the training schedule, so they cannot; DPM-Solver-2 keeps further lists of levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.noise_levels import ratios
from postdiff.methods.mixed_resolution.history import can_reset

__all__ = ["check_raised", "scale_levels", "shifted"]


def shifted(
    scheduler: Any, factors: Callable[[int], Sequence[float]], option: str = "shift", instead: str = "shift=0"
) -> AbstractContextManager[None]:
    """Scale noise over signal, step by step, whenever a pipeline sets its timesteps within the `with` block.

    Args:
        scheduler: the pipeline's.
        factors: from the number of steps (solver calls) to the factor of each.
        option: of a method, in whose name to complain.
        instead: what to propose for it.

    Raises:
        UsageError: a solver without a list of levels.
    """
    if getattr(scheduler, "sigmas", None) is None:
        raise _refused(scheduler, "keeps no list of noise levels that could be shifted", option, instead)
    if hasattr(scheduler, "sigmas_interpol"):
        reason = "evaluates between its noise levels, at others that would not be shifted along"
        raise _refused(scheduler, reason, option, instead)

    def around(set_timesteps: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scale_levels(scheduler, factors(len(scheduler.timesteps)), option, instead)

    return intercept(scheduler, "set_timesteps", around)


def check_raised(scheduler: Any, written: bool, steps: int) -> None:
    """Whether a run of so many steps can begin, levels that rise in it having been `written` beforehand or not.

    Raises:
        UsageError: the solver would carry its history over to the raised level, or its list is not the run's.
    """
    name = type(scheduler).__name__
    if not can_reset(scheduler):
        reason = f"{name} cannot drop its history in mid-run"
    elif not written or len(scheduler.timesteps) != steps:
        reason = f"this pipeline does not run all steps that {name} has just been set to"
    else:
        return
    raise UsageError(f"MixedResolution: renoise='aligned', but {reason}; use renoise='next'")


def scale_levels(scheduler: Any, factors: Sequence[float], option: str = "shift", instead: str = "shift=0") -> None:
    """Multiply noise over signal at every step but the first by its factor; timesteps follow.

    The first step keeps its level: the pipeline starts from noise of that strength.

    Args:
        scheduler: whose timesteps are set.
        factors: one a step.
        option: as for `shifted`.
        instead: likewise.

    Raises:
        UsageError: levels of a kind that is not known here, steps that would fall together at the lowest one, or a
            level raised to where the run begins, which is the highest that there is.
    """
    old = torch.tensor(ratios(scheduler, scheduler.timesteps), dtype=torch.float64, device="cpu")
    factor = torch.tensor(factors, dtype=torch.float64, device="cpu")
    changed = factor != 1
    changed[0] = False
    if not changed.any():
        return
    if (high := old * factor >= old[0]).logical_and_(factor > 1).any():
        step = int(high.nonzero()[0])
        raise UsageError(
            f"{option} raises noise over signal at step {step} from {float(old[step]):.3g} to "
            f"{float(old[step] * factor[step]):.3g}, and this run begins at {float(old[0]):.3g}, the highest that it "
            f"has; switch later, or use a larger beta or {instead}"
        )
    sigmas = scheduler.sigmas[: len(old)].cpu().double()
    if torch.allclose(sigmas, old, rtol=1e-3) and (scheduler.timesteps < 0).any():  # EDM: a quarter of the logarithm
        new = levels = old * factor
        times = levels.log() / 4
    elif torch.allclose(sigmas, old, rtol=1e-3) and hasattr(scheduler, "alphas_cumprod"):
        times, levels = _on_table(scheduler, old * factor)
        new = levels
    elif torch.allclose(sigmas / (1 - sigmas), old, rtol=1e-3):  # a flow: sigma = noise / (signal + noise)
        levels = 1 / (1 + 1 / (old * factor))  # also where there is no signal at all
        times, new = scheduler.timesteps.cpu().double() * levels / sigmas, old * factor
    else:
        raise _refused(scheduler, "measures its noise levels in a way that is not known here", option, instead)
    new = torch.where(changed, new, old)
    falls = (old[:-1] > old[1:]) & (factor[:-1] == factor[1:])
    if (new[:-1] <= new[1:])[falls].any():
        raise UsageError(
            "shift asks for less noise than the network knows, so that steps fall together; switch earlier, or use "
            "a smaller shift or a larger beta"
        )
    scheduler.sigmas = _laid_over(scheduler.sigmas, changed, levels)
    scheduler.timesteps = _laid_over(scheduler.timesteps, changed, times)


def _on_table(scheduler: Any, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(timesteps, ratios) of the training schedule nearest to the ratios wanted; between its steps by logarithm."""
    kept = scheduler.alphas_cumprod.cpu().double()
    table = ((1 - kept) / kept).sqrt().log()
    places = torch.arange(len(table), dtype=torch.float64, device="cpu")
    times = _interpolated(wanted.log(), table, places)
    if not scheduler.timesteps.is_floating_point():
        times = times.round()
    return times, _interpolated(times, places, table).exp()


def _interpolated(at: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear through (known, values), `known` rising; constant beyond its ends."""
    right = torch.searchsorted(known, at).clamp(1, len(known) - 1)
    left = right - 1
    part = ((at - known[left]) / (known[right] - known[left])).clamp(0, 1)
    return values[left] + part * (values[right] - values[left])


def _laid_over(old: Tensor, changed: Tensor, values: Tensor) -> Tensor:
    new, steps = old.clone(), changed.nonzero().flatten()
    new[steps.to(old.device)] = values[steps].to(old)
    return new


def _refused(scheduler: Any, reason: str, option: str, instead: str) -> UsageError:
    return UsageError(f"{option}: {type(scheduler).__name__} {reason}; use Euler, DPM-Solver, UniPC, Heun or {instead}")
