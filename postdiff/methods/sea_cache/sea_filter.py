"""The filter of SeaCache: what a sample shows of the clean image at its noise level, frequency by frequency."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sea_filter"]


def sea_filter(sample: Tensor, ratio: float, power: float) -> Tensor:
    """Filter every channel by the optimal linear estimate of a signal whose power falls with the frequency.

    A noisy sample is a x0 + b noise, and the power of x0 at frequency f is S = 1 / |f|^p. The gain along one axis is
    a S / (a^2 S + b^2), that of a frequency the product over the axes, divided by its mean over all frequencies. A
    factor of both a and b falls out, so only their ratio counts, and a + b = 1 here.

    Args:
        sample: (rows, C, H, W) or (rows, C, F, H, W).
        ratio: noise over signal, b / a, from 0 to infinity.
        power: p; 0 leaves the sample as it is.

    Returns:
        As `sample`, computed in float32.
    """
    noise = min(max(1 - 1 / (1 + ratio), 1e-6), 1 - 1e-6)  # an infinite ratio is pure noise
    signal, axes, gain = 1 - noise, range(2, sample.ndim), torch.ones((), device=sample.device)
    for axis in axes:
        frequencies = torch.fft.fftfreq(sample.shape[axis], device=sample.device, dtype=torch.float32)
        clean = 1 / (frequencies.abs() ** power + 1e-16)
        along = signal * clean / (signal**2 * clean + noise**2 + 1e-16)
        gain = gain * along.view(-1, *[1] * (sample.ndim - 1 - axis))
    spectrum = torch.fft.fftn(sample.float(), dim=tuple(axes))
    return torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=tuple(axes)).real.to(sample.dtype)
