"""What the settings of runs and cards may be: the words and bounds that several of them share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from postdiff.engine.errors import UsageError, shown
from postdiff.engine.values import one_of, real, whole

__all__ = [
    "DTYPES",
    "MOST_PIXELS",
    "check_device",
    "check_seeds",
    "dtype",
    "frames",
    "given_seeds",
    "guidance",
    "offload",
    "pixels",
    "strength",
]

DTYPES = ("float32", "float16", "bfloat16")
OFFLOADS = ("none", "model", "sequential", "group")
MOST_PIXELS = 16384  # of a side; four times that of the largest published pictures


def pixels() -> Any:
    """A field for a side of a picture."""
    return whole(None, 1, MOST_PIXELS)


def guidance() -> Any:
    """A field for the scale of classifier-free guidance."""
    return real(None, lambda scale: scale >= 0, "0 or more")


def strength() -> Any:
    """A field for the share of the noise that image-to-image starts from."""
    return real(None, lambda share: 0 < share <= 1, "above 0, to 1")


def frames() -> Any:
    """A field for the length of a video."""
    return whole(None, 1, 10_000)


def dtype(default: str | None) -> Any:
    """A field for the name of a torch dtype."""
    return one_of(default, DTYPES, "dtype")


def offload() -> Any:
    """A field for where weights wait that a GPU does not need at the moment."""
    return one_of(None, OFFLOADS, "offload")


def check_device(name: str) -> None:
    """Refuse what is no name of a device, whether it is there or not.

    Raises:
        UsageError: none of auto, cpu, cuda and cuda:N.
    """
    if name not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,4}", name):
        raise UsageError(f"unknown device '{shown(name)}'; use auto, cpu, cuda or cuda:N")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are the same or out of range; none at all are fine here.

    Raises:
        UsageError: with the range.
    """
    if len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise UsageError(
            f"seeds={shown(list(seeds))} must be a list of different whole numbers from 0 and below 2**63, for "
            "instance [0,1,2]"
        )


def given_seeds(name: str, seeds: Sequence[int]) -> None:
    """The same for seeds that somebody has written down, which must be some."""
    if not seeds:
        raise UsageError(f"{name}=[] must be a list of different whole numbers, for instance [0,1,2]; or leave it out")
    check_seeds(seeds)
