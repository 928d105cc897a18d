"""Changing the size of latents, and of the arguments that must follow it.

`nearest-exact` down after `nearest-exact` up is the identity for every ratio >= 1, integer or not, which is what
lets a low-resolution run live inside full-size latents.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from postdiff.engine.errors import UsageError

__all__ = ["BLOCK", "conform", "follow", "resize", "scale_pixels", "shrink_control"]

BLOCK = "latent pixels that move as one"  # among a ControlNet's arguments
Size = tuple[int, int]


def resize(value: Tensor, size: Size, mode: str = "nearest-exact", block: int = 1) -> Tensor:
    """Resize the last two dimensions of a tensor of any rank: (..., H, W) -> (..., *size).

    With a `block` above 1, squares of so many pixels a side move as a whole, as tokens do where latents are packed.
    """
    if tuple(value.shape[-2:]) == tuple(size):
        return value
    if block > 1:
        height, width = (side // block for side in size)
        squares = value.unflatten(-2, (-1, block)).unflatten(-1, (-1, block)).movedim((-3, -1), (-4, -3))
        moved = resize(squares, (height, width), mode)
        return moved.movedim((-4, -3), (-3, -1)).flatten(-2).flatten(-3, -2)
    planes = value.flatten(0, -3).unsqueeze(1)
    align = {} if mode in ("nearest-exact", "area") else {"align_corners": False}
    return F.interpolate(planes, size=size, mode=mode, **align).reshape(*value.shape[:-2], *size)


def conform(kwargs: dict[str, Any], names: tuple[str, ...], full: Size, low: Size, patch: int) -> dict[str, Any]:
    """Resample tables over the token grid, (tokens, channels) or tuples of such, from the full to the low grid."""

    def table(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(table(item) for item in value)
        grid = value.reshape(full[0] // patch, full[1] // patch, -1).permute(2, 0, 1)
        return resize(grid, (low[0] // patch, low[1] // patch)).permute(1, 2, 0).flatten(0, 1)

    changed = {name: table(kwargs[name]) for name in names if kwargs.get(name) is not None}
    return {**kwargs, **changed}


def follow(kwargs: dict[str, Any], full: Size, low: Size, side: int = 0) -> dict[str, Any]:
    """What goes with the latent size in every network: maps of an adapter or a control video, a time for every token.

    Args:
        kwargs: the network's arguments.
        full: latent size (height, width) that they were made for.
        low: the one that the network is called at.
        side: of a token in latent pixels; 0 if it is not known.
    """
    changed = dict(kwargs)
    if (maps := kwargs.get("down_intrablock_additional_residuals")) is not None:
        changed["down_intrablock_additional_residuals"] = [_averaged(each, full, low) for each in maps]
    if (video := kwargs.get("control_hidden_states")) is not None:
        changed["control_hidden_states"] = _averaged(video, full, low)
    times = kwargs.get("timestep")
    if isinstance(times, Tensor) and times.ndim == 2:
        changed["timestep"] = _times(times, full, low, (side,) if side else (2, 1))
    return changed


def _averaged(value: Tensor, full: Size, low: Size) -> Tensor:
    # Networks halve odd sides upwards.
    size = (-(-value.shape[-2] * low[0] // full[0]), -(-value.shape[-1] * low[1] // full[1]))
    return resize(value, size, "area")


def _times(times: Tensor, full: Size, low: Size, sides: tuple[int, ...]) -> Tensor:
    """(rows, frames x token rows x token columns), tokens being squares of so many latent pixels a side."""
    for side in sides:
        tokens = (full[0] // side) * (full[1] // side)
        if times.shape[1] % tokens == 0:
            frames = times.unflatten(1, (-1, full[0] // side, full[1] // side))
            return resize(frames, (low[0] // side, low[1] // side)).flatten(1)
    raise UsageError(
        f"this pipeline tells its network {times.shape[1]} times a sample, which fit no grid of {full[0]} x {full[1]} "
        "latent pixels; leave the size of its latents as it is"
    )


def scale_pixels(kwargs: dict[str, Any], names: tuple[str, ...], full: Size, low: Size) -> dict[str, Any]:
    """Scale micro-conditioning given in pixels by the ratio of the sides.

    Raises:
        UsageError: the network is told no size.
    """
    conditions = kwargs.get("added_cond_kwargs") or {}
    scaled = {name: conditions[name] * (low[0] / full[0]) for name in names if conditions.get(name) is not None}
    if not scaled:
        raise UsageError(
            "MixedResolution: micro_conditioning='low', but this network is told no size in pixels; use 'full'"
        )
    return {**kwargs, "added_cond_kwargs": {**conditions, **scaled}}


def shrink_control(kwargs: dict[str, Any], full: Size, low: Size) -> dict[str, Any]:
    """A ControlNet's arguments for the low phase: latents on the sub-grid, images averaged down."""
    block = kwargs.get(BLOCK, 1)

    def condition(value: Any) -> Any:
        if isinstance(value, list):
            return [condition(item) for item in value]
        height, width = value.shape[-2:]
        if (height, width) == tuple(full):  # latents, as the sample
            return resize(value, low, block=block)
        return resize(value, (height * low[0] // full[0], width * low[1] // full[1]), "area")

    sample = resize(kwargs["sample"], low, block=block)
    return {**kwargs, "sample": sample, "controlnet_cond": condition(kwargs["controlnet_cond"])}
