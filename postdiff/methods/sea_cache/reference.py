"""The formula of SeaCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from postdiff.engine.noise_levels import ratios
from postdiff.methods.formulas import Past, Reference, Setting, blocks_of, extrapolated, relative

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """x_t + R, R the series of y_k - x_k, while sum_i |z_i - z_(i-1)| / |z_(i-1)| < delta, z the filtered latents."""
    blocks, z = blocks_of(run.network), {}
    ks: dict[str, list[int]] = {}
    total: dict[str, float] = {}
    levels = ratios(run.scheduler, run.scheduler.timesteps)
    names = ("x_embedder", "img_in", "patch_embed", "patch_embedding", "pos_embed")
    entry = next(getattr(run.network, name) for name in names if hasattr(run.network, name))

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "entry":
            z[b, t] = filtered(x[b][t][0], levels[t], method.power)
            return y[b][t]
        done = [k for k in ks.get(b, []) if k in y[b]]
        if done and method.first <= t < run.steps - method.last:
            before = max(s for s in y[b] if s < t)
            in_a_row = [s for s in y[b] if done[-1] < s < t]
            if method.in_a_row < 0 or len(in_a_row) < method.in_a_row:
                total[b] += relative(z[b, t], z[b, before])
                if total[b] < method.threshold:
                    return extrapolated(blocks[-1], x[b], y[b], done, t, method.order)
        ks[b], total[b] = [*done, t], 0.0
        return y[b][t]

    return Reference({"entry": (entry, entry), "chain": (blocks[0], blocks[-1])}, value)


def filtered(latents: Tensor, ratio: float, power: float) -> Tensor:
    """G * x of one image, G = a S / (a^2 S + b^2) along every axis by itself, over its mean; a + b = 1, S = 1 / f^p."""
    a = min(max(1 / (1 + ratio), 1e-6), 1 - 1e-6)
    b = 1 - a
    if latents.ndim == 3:  # tokens of 2 x 2; all tiny images are 4 by 3
        height, width = round((latents.shape[1] * 4 / 3) ** 0.5), round((latents.shape[1] * 3 / 4) ** 0.5)
        latents = latents.view(1, height, width, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    gain, spectrum = torch.ones(()), torch.fft.fftn(latents, dim=tuple(range(2, latents.ndim)))
    for axis in range(2, latents.ndim):
        s = 1 / (torch.fft.fftfreq(latents.shape[axis]).abs() ** power + 1e-16)
        gain = gain[..., None] * (a * s / (a**2 * s + b**2))
    return torch.fft.ifftn(spectrum * gain / gain.mean(), dim=tuple(range(2, latents.ndim))).real
