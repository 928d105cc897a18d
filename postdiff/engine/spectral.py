"""Latents enlarged by their waves: what a small one holds becomes the low band of a large one, all else is new.

D_n is the orthonormal cosine transform (DCT-II) of n pixels. E = D_H[:h]' D_h, (H, h), takes the waves of h pixels
to the h longest ones of H pixels, so that E'E = 1. With fresh white noise n, small latents x with noise of amplitude
sigma go on as E x E' + sigma (n - EE' n EE'). White noise stays white: E(.)E' is the low band, the rest is the other.

The signal of an image grows with the number of its pixels and white noise does not, so E x0 E' is the large image over
r = sqrt(HW / hw): noise over signal of what comes out is r times what it was (SPEED, arXiv:2605.18736).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["basis", "continued", "enlarge", "waves"]

Size = tuple[int, int]


def waves(side: int, count: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """(count, side): the longest waves of an orthonormal DCT-II, one a row."""
    wave, pixel = torch.arange(count, device=device)[:, None], torch.arange(side, device=device)
    # Whole numbers, and less than a turn, so that float32 is as exact as it can be.
    angle = (wave * (2 * pixel + 1) % (4 * side)).to(dtype) * (math.pi / (2 * side))
    height = torch.full((count, 1), math.sqrt(2 / side), dtype=dtype, device=device)
    height[:1] = math.sqrt(1 / side)
    return height * angle.cos()


def basis(low: int, full: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """E, shape (full, low), with orthonormal columns; `full` >= `low`, in any ratio."""
    return waves(full, low, dtype, device).T @ waves(low, low, dtype, device)


def enlarge(clean: Tensor, size: Size) -> Tensor:
    """A clean latent (..., h, w) at another size (H, W), r E x0 E': every wave it holds keeps its height, none is new.

    Calculated in float32, or in the latent's own type if that is wider.
    """
    rows, columns = _bases(clean, size)
    ratio = math.sqrt(math.prod(size) / math.prod(clean.shape[-2:]))
    return (ratio * (rows @ clean.to(rows.dtype) @ columns.T)).to(clean.dtype)


def continued(small: Tensor, fresh: Tensor) -> Tensor:
    """White noise on the grid of `fresh` whose low band is the noise of the small grid.

    Args:
        small: white noise (..., h, w).
        fresh: white noise (..., H, W), independent of it; H >= h, W >= w, in any ratio.
    """
    rows, columns = _bases(small, (fresh.shape[-2], fresh.shape[-1]))
    wide = fresh.to(rows.dtype)
    instead = small.to(rows.dtype) - rows.T @ wide @ columns
    return (wide + rows @ instead @ columns.T).to(fresh.dtype)


def _bases(small: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(small.dtype, torch.float32)
    rows, columns = (basis(low, full, dtype, small.device) for low, full in zip(small.shape[-2:], size, strict=True))
    return rows, columns
