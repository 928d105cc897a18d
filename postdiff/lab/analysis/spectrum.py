"""How strong an image's waves are by their frequency: what blur takes away and prior noise gives back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["frequencies", "log_amplitudes"]


def log_amplitudes(images: Tensor) -> Tensor:
    """Log amplitude of the Fourier transform by frequency, mean over directions and channels.

    Every wave is counted with the ring of whole frequency nearest to its own, up to the highest that both sides hold;
    the corners beyond are left out. The image is taken as periodic, without a window.

    Args:
        images: (N, C, H, W), values in [0, 1].

    Returns:
        (N, rings), log10 of the amplitude; the mean of an image (ring 0) is among them.

    Reference:
        Li et al., "Faster Diffusion", NeurIPS 2024, arXiv:2312.09608, Fig. 6, which does not say how it is made.
    """
    height, width = images.shape[-2:]
    amplitude = torch.fft.fft2(images.double()).abs()
    # An exact 0 has no logarithm; far below one grey level it is as good as none.
    logs = amplitude.clamp(min=1e-6).log10()
    down = torch.fft.fftfreq(height, d=1 / height, device=images.device)
    across = torch.fft.fftfreq(width, d=1 / width, device=images.device)
    rings = min(height, width) // 2 + 1
    # In units of the shorter side, so that a ring is one frequency in both directions.
    scaled = [axis * min(height, width) / side for axis, side in ((down, height), (across, width))]
    ring = (scaled[0][:, None].square() + scaled[1].square()).sqrt().round().long()
    found = []
    for number in range(rings):
        found.append(logs[..., ring == number].mean((-1, -2)))
    return torch.stack(found, dim=-1)


def frequencies(side: int) -> list[float]:
    """The frequency of each ring in cycles a pixel, up to 0.5; `side` is the image's shorter one."""
    return [ring / side for ring in range(side // 2 + 1)]
