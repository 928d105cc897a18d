"""Latents enlarged as images: decoded by the pipeline's VAE, resized in pixels, encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize

__all__ = ["check", "decode", "encode", "enlarge"]

Size = tuple[int, int]


def check(vae: Any, method: str) -> None:
    """Raise a `UsageError` in the name of `method` unless the pipeline's VAE can decode and encode."""
    if not (hasattr(vae, "encode") and hasattr(vae, "decode")):
        raise UsageError(
            f"{method}: space='pixel' needs a VAE, and this pipeline has none that encodes; use space='latent'"
        )


def enlarge(vae: Any, latents: Tensor, size: Size, mode: str) -> Tensor:
    """Clean latents (rows, C, h, w) or (rows, C, F, h, w) at another latent size, by way of pixels.

    Nothing is drawn: the encoder's mode is taken. Pixels are clipped to [-1, 1], where images are.

    Args:
        vae: the pipeline's; what it does to save memory (slicing, tiling) holds here too.
        latents: in the pipeline's scale.
        size: (height, width) wanted.
        mode: how pixels are resized: bilinear, bicubic or nearest-exact.
    """
    if tuple(latents.shape[-2:]) == tuple(size):
        return latents  # nothing to enlarge, so no loss to take
    with _precise(vae):
        # A VAE of images takes the frames of a video as rows, one of videos an image as a video of one frame.
        video, volume = latents.ndim == 5, any(weight.ndim == 5 for weight in vae.parameters())
        rows = latents
        if video and not volume:
            rows = latents.transpose(1, 2).flatten(0, 1)
        elif volume and not video:
            rows = latents.unsqueeze(2)
        pixels = decode(vae, rows)
        sides = (side * new // old for side, new, old in zip(pixels.shape[-2:], size, latents.shape[-2:], strict=True))
        height, width = sides
        found = encode(vae, resize(pixels, (height, width), mode).clamp(-1, 1)).to(latents.dtype)
    if video and not volume:
        return found.unflatten(0, (len(latents), -1)).transpose(1, 2)
    return found.squeeze(2) if volume and not video else found


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pixels, about -1 to 1, of latents in the pipeline's scale."""
    scale, offset = _scale(vae, latents)
    return vae.decode((latents * scale + offset).to(vae.dtype), return_dict=False)[0]


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """The inverse of `decode`; of a VAE that gives a distribution, its mode."""
    found = vae.encode(pixels.to(vae.dtype))
    latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
    scale, offset = _scale(vae, latents)
    return (latents - offset) / scale


def _scale(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What the VAE's own latents are of the pipeline's: latents * scale + offset."""
    config = vae.config
    scale: Tensor | float = 1 / (getattr(config, "scaling_factor", None) or 1.0)
    offset: Tensor | float = getattr(config, "shift_factor", None) or 0.0
    mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and deviation is not None:
        shape = (1, -1, *[1] * (like.ndim - 2))
        mean, deviation = (torch.tensor(value, dtype=like.dtype, device=like.device) for value in (mean, deviation))
        return deviation.view(shape) * scale, mean.view(shape)
    return scale, offset


@contextmanager
def _precise(vae: Any) -> Iterator[None]:
    """Some published VAEs overflow in float16 (`force_upcast`): float32 for as long as needed, as pipelines do."""
    dtype = vae.dtype
    upcast = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(dtype)
