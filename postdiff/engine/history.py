"""What multistep solvers remember of earlier steps, and how to bring it over a change of resolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize

__all__ = ["can_reset", "enlarge", "forget_last_sample", "resample", "reset"]

Size = tuple[int, int]

# Lists of past predictions: DPM-Solver(++), UniPC, DEIS, SA-Solver; PNDM; LMS.
_LISTS = ("model_outputs", "ets", "derivatives")


def resample(scheduler: Any, change: Callable[[Tensor], Tensor]) -> None:
    """Replace every remembered prediction by `change(prediction)`."""
    for name in _LISTS:
        past = getattr(scheduler, name, None)
        if isinstance(past, list):
            setattr(scheduler, name, [change(item) if isinstance(item, Tensor) else item for item in past])


def enlarge(scheduler: Any, small: Size, large: Size, full: Size, block: int) -> None:
    """Enlarge, bilinear, predictions that hold a grid of size `small` replicated over `full`; `large` is held then."""

    def change(past: Tensor) -> Tensor:
        return resize(resize(resize(past, small, block=block), large, "bilinear"), full, block=block)

    resample(scheduler, change)


def can_reset(scheduler: Any) -> bool:
    """Whether the solver can start again from nothing: PNDM's warm-up needs its doubled first timestep."""
    return not hasattr(scheduler, "ets")


def reset(scheduler: Any) -> None:
    """Forget every earlier prediction, so that the next step is of first order.

    Raises:
        UsageError: the solver cannot start again in mid-run.
    """
    if not can_reset(scheduler):
        raise UsageError(
            f"{type(scheduler).__name__} cannot drop its history in mid-run; use history='keep' or 'bilinear'"
        )
    for name in _LISTS:
        past = getattr(scheduler, name, None)
        if isinstance(past, list):
            # Fixed-length buffers stay as long as they are; growing ones are emptied.
            setattr(scheduler, name, [None] * len(past) if hasattr(scheduler, "lower_order_nums") else [])
    if hasattr(scheduler, "lower_order_nums"):
        scheduler.lower_order_nums = 0


def forget_last_sample(scheduler: Any) -> None:
    """UniPC's corrector would rebuild the sample from the one before a re-noising, and lose the fresh noise."""
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = None
