"""Latents packed into tokens, 2 x 2 pixels each, as Flux and Qwen-Image hand them to network and solver.

The driver unpacks them, so that methods see latents (rows, C, H, W) in every pipeline.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.engine.fingerprint import noted, unchanged

__all__ = ["SIDE", "Sizes", "fitted", "latent_size", "pack", "unpack"]

SIDE = 2
UNKNOWN = (
    "this pipeline packs its latents, or images with them, in a way that the driver does not know; use it as it is"
)
Size = tuple[int, int]


def pack(latents: Tensor) -> Tensor:
    """(rows, C, H, W) to (rows, H W / 4, 4 C), each token channel by channel."""
    rows, channels, height, width = latents.shape
    squares = latents.reshape(rows, channels, height // SIDE, SIDE, width // SIDE, SIDE)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width // SIDE**2, channels * SIDE**2)


def unpack(tokens: Tensor, size: Size) -> Tensor:
    """The inverse of `pack` for latents of `size`.

    Raises:
        UsageError: there are other tokens among them, of a second image say.
    """
    height, width = size
    if tokens.ndim != 3 or tokens.shape[1] != height * width // SIDE**2:
        raise UsageError(UNKNOWN)
    squares = tokens.reshape(len(tokens), height // SIDE, width // SIDE, -1, SIDE, SIDE)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def latent_size(kwargs: dict[str, Any]) -> Size:
    """Latent size (height, width), from what the network is told of its tokens' places.

    Raises:
        UsageError: it is told in a way that is not known here, or of several images.
    """
    ids = kwargs.get("img_ids")
    if ids is not None and ids.shape[-1] == 3:
        height, width = (int(places.max()) + 1 for places in ids.reshape(-1, 3)[:, 1:].unbind(1))
        return height * SIDE, width * SIDE
    shapes = kwargs.get("img_shapes")
    if shapes and len(shapes[0]) == 1:
        _, height, width = shapes[0][0]
        return height * SIDE, width * SIDE
    raise UsageError(UNKNOWN)


class Sizes:
    """Latent sizes of the network's calls, one after the other: looking at places of tokens waits for a GPU."""

    def __init__(self) -> None:
        self._seen: Any = None
        self._size: Size | None = None

    def of(self, kwargs: dict[str, Any]) -> Size:
        """`latent_size`, without looking where the network is told what it was told before."""
        sizes = [kwargs.get(name) for name in ("img_ids", "img_shapes")]
        if self._size is None or not unchanged(sizes, self._seen):
            self._size, self._seen = latent_size(kwargs), noted(sizes)
        return self._size


def fitted(kwargs: dict[str, Any], size: Size) -> dict[str, Any]:
    """The network's arguments for latents of another size: places of the tokens as in a run at that size."""
    height, width = (side // SIDE for side in size)
    changed = dict(kwargs)
    if (ids := kwargs.get("img_ids")) is not None:
        sides = (torch.arange(side, device=ids.device) for side in (height, width))
        down, across = torch.meshgrid(*sides, indexing="ij")
        places = torch.stack([torch.zeros_like(down), down, across], -1).reshape(-1, 3).to(ids.dtype)
        changed["img_ids"] = places.expand(*ids.shape[:-2], -1, -1)
    if (shapes := kwargs.get("img_shapes")) is not None:
        changed["img_shapes"] = [[(frames, height, width)] for [(frames, _, _)] in shapes]
    return changed
