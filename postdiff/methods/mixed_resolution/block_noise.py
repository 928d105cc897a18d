"""White noise for enlarged latents that goes on with the noise of the small ones.

Enlarged `nearest-exact`, every small pixel becomes a block of m pixels. The mean of m pixels of white noise has the
variance 1/m, and what is left of them without their mean is independent of it. So n / sqrt(m), with n the small pixel's
own noise, may stand in the place of the mean: n / sqrt(m) + e - mean(e) has the covariance 11'/m + (I - 11'/m) = I. The
second part is the corrective noise of Pyramidal Flow Matching and RALU at its smallest, I - 11'/Z^2 with Z^2 = m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from postdiff.engine.grid import resize

__all__ = ["continued"]


def continued(small: Tensor, fresh: Tensor) -> Tensor:
    """White noise on the grid of `fresh` whose block means are the noise of the small grid.

    Args:
        small: white noise (..., h, w).
        fresh: white noise (..., H, W), independent of it; H >= h, W >= w, in any ratio.
    """
    wide = fresh.to(torch.promote_types(fresh.dtype, torch.float32))
    rows, columns = (
        _blocks(low, full, fresh.device).to(wide.dtype)
        for low, full in zip(small.shape[-2:], fresh.shape[-2:], strict=True)
    )
    size = rows.sum(1)[:, None] * columns.sum(1)  # pixels of each block, (h, w)
    mean = rows @ wide @ columns.T / size
    instead = small.to(wide.dtype) / size.sqrt() - mean
    return (wide + rows.T @ instead @ columns).to(fresh.dtype)


def _blocks(low: int, full: int, device: torch.device) -> Tensor:
    """(low, full): 1 where a pixel of the full side comes from one of the low side, else 0."""
    sources = resize(torch.arange(float(low), device=device).expand(1, 1, 1, low), (1, full)).flatten().long()
    return torch.nn.functional.one_hot(sources, low).T.float()
