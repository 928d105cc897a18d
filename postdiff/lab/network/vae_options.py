"""Decoding in slices of a batch or in tiles of a picture: less memory at the price of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.lab.config.schema import NetworkConfig

__all__ = ["check", "held", "vaes"]

WORDS = {"vae_slicing": "use_slicing", "vae_tiling": "use_tiling"}


def vaes(pipe: Any) -> list[nn.Module]:
    """The pipeline's VAE; none where it works in pixels."""
    vae = getattr(pipe, "vae", None)
    return [vae] if isinstance(vae, nn.Module) else []


def check(pipe: Any, options: NetworkConfig) -> None:
    """Refuse what the pipeline's VAE cannot do.

    Raises:
        UsageError: no VAE, or one that knows no slices or tiles.
    """
    for option, flag in WORDS.items():
        if not getattr(options, option):
            continue
        if not vaes(pipe):
            raise UsageError(f"network.{option}=true: {type(pipe).__name__} has no VAE; leave it out")
        if not hasattr(pipe.vae, flag):
            raise UsageError(f"network.{option}=true: {type(pipe.vae).__name__} cannot do that; leave it out")


@contextmanager
def held(pipe: Any, options: NetworkConfig) -> Iterator[None]:
    """Switch slices or tiles on for one call.

    Raises:
        UsageError: the call has ended, and no picture was large enough for tiles.
    """
    vae, tiled = pipe.vae, []

    def around(decode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tiled.append(True)
        return decode(*args, **kwargs)

    with ExitStack() as stack:
        for option, flag in WORDS.items():
            if getattr(options, option):
                stack.callback(setattr, vae, flag, getattr(vae, flag))
                setattr(vae, flag, True)
        watched = options.vae_tiling and hasattr(vae, "tiled_decode")
        if watched:
            stack.enter_context(intercept(vae, "tiled_decode", around))
        yield
        if watched and not tiled:
            least = getattr(vae, "tile_sample_min_size", None)
            size = f"of {least} pixels " if isinstance(least, int) else ""
            raise UsageError(
                f"network.vae_tiling=true did nothing: a picture of this size is a single tile {size}to "
                f"{type(vae).__name__}; draw larger or leave it out"
            )
