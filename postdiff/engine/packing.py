"""Latents as rows of tokens, each a square of latent pixels, and back."""

from __future__ import annotations

from torch import Tensor

__all__ = ["SIDE", "pack", "unpack"]

SIDE = 2
Size = tuple[int, int]


def pack(latents: Tensor, side: int = SIDE) -> Tensor:
    """(rows, C, [frames,] H, W) to (rows, tokens, C side side): row by row, each token channel by channel."""
    squares = latents.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).movedim((1, -3, -1), (-3, -2, -1))
    return squares.flatten(-3).flatten(1, -2)


def unpack(tokens: Tensor, size: Size, side: int = SIDE, frames: int | None = None) -> Tensor:
    """The inverse of `pack` for latents of `size` (height, width); with frames if their number is given."""
    height, width = (each // side for each in size)
    grid = (height, width) if frames is None else (frames, height, width)
    squares = tokens.unflatten(1, grid).unflatten(-1, (-1, side, side))
    return squares.movedim((-3, -2, -1), (1, -3, -1)).flatten(-2).flatten(-3, -2)
