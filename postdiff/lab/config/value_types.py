"""Types of settings that runs and cards share: what a value may be, and the bounds within which it means something."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from postdiff.engine.errors import UsageError, shown
from postdiff.engine.values import LARGEST

__all__ = [
    "MOST_PIXELS",
    "Count",
    "DType",
    "Finite",
    "Frames",
    "Guidance",
    "Offload",
    "Pixels",
    "Seconds",
    "Seeds",
    "Strength",
    "Text",
    "Whole",
    "check_device",
    "check_seeds",
    "checked",
]

MOST_PIXELS = 16384  # of a side; four times that of the largest published images

T = TypeVar("T")


def checked(check: Callable[[Any], object]) -> AfterValidator:
    """A validator of pydantic that lets a value be as it is, unless `check` raises a `UsageError`."""

    def run(value: T) -> T:
        check(value)
        return value

    return AfterValidator(run)


def check_device(name: str) -> None:
    """Refuse what is no name of a device, whether it is there or not.

    Raises:
        UsageError: none of auto, cpu, cuda and cuda:N.
    """
    if name not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,4}", name):
        raise UsageError(f"unknown device '{shown(name)}'; use auto, cpu, cuda or cuda:N")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are none, the same or out of range.

    Raises:
        UsageError: with the range.
    """
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise UsageError(
            f"seeds={shown(list(seeds))} must be a list of different whole numbers from 0 and below 2**63, for "
            "instance [0,1,2]"
        )


Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Frames = Annotated[int, Field(ge=1, le=10_000)]
Seeds = Annotated[list[int], checked(check_seeds)]
DType = Literal["float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "sequential", "group"]
# A text; people write `tags: [2026]` and `project: 7` for one as well.
Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
