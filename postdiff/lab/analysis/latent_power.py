"""How much signal a model's finished latents have at each frequency, measured while images are generated in full."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from postdiff.engine import spectral
from postdiff.engine.errors import UsageError
from postdiff.engine.state import State
from postdiff.methods.base import Method, StepCall

__all__ = ["LatentPower", "fit"]


class LatentPower(Method):
    """Changes nothing; measures the mean square of every wave of the latents after the last step.

    Channels, images and the frames of a video add up to a mean.

    Reference:
        SPEED, arXiv:2605.18736, which fits a power law to the latents of images that it encodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: list[tuple[Tensor, int]] = []  # shared with the driver's copies of this method
        self._of: dict[str, float] = {}

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        moved = forward(output, timestep, sample)
        if state.index == state.steps - 1:
            planes = moved.detach().double().cpu().flatten(0, -3)
            rows, columns = (spectral.waves(side, side) for side in planes.shape[-2:])
            squares = (rows @ planes @ columns.T).square()
            if self._found and self._found[0][0].shape != squares.shape[-2:]:
                raise UsageError("LatentPower needs latents of one size; use a fresh one for each size")
            self._found.append((squares.sum(0), len(squares)))
            scaling = getattr(getattr(state.vae, "config", None), "scaling_factor", None)
            self._of.update(channels=moved.shape[1], scaling=float(scaling or 1.0))
        return moved

    def values(self) -> dict[str, float]:
        """What `spectrum` of mixed resolution is given."""
        if not self._found:
            raise UsageError("LatentPower has seen no finished latents; generate some images with it first")
        power = torch.stack([squares for squares, _ in self._found]).sum(0) / sum(count for _, count in self._found)
        amplitude, exponent = fit(power)
        height, width = power.shape
        return {"amplitude": amplitude, "exponent": exponent, "height": height, "width": width, **self._of}


def fit(power: Tensor) -> tuple[float, float]:
    """(A, b) of the straight line through log power over log frequency, A w^-b.

    Every wave but the mean is counted with the ring nearest to its frequency, in half cycles over the shorter side; the
    corners beyond the last ring are left out. A ring has one vote.

    Args:
        power: mean square of each wave, (H, W).

    Raises:
        UsageError: fewer than two rings, or power that does not fall.
    """
    side = min(power.shape)
    down, across = (torch.arange(length, dtype=power.dtype) * side / length for length in power.shape)
    radius = (down[:, None].square() + across.square()).sqrt()
    rings = [radius.round() == number for number in range(1, side)]
    if len(rings) < 2:
        raise UsageError(f"latents of {power.shape[0]} x {power.shape[1]} pixels have too few frequencies for a fit")
    logs = torch.stack([torch.stack([radius[ring].mean() / 2, power[ring].mean()]).log() for ring in rings])
    frequency, height = (logs - logs.mean(0)).unbind(1)
    slope = float(frequency @ height / (frequency @ frequency))
    amplitude = float((logs[:, 1].mean() - slope * logs[:, 0].mean()).exp())
    if not (slope < 0 < amplitude):
        raise UsageError("these latents have no less power at higher frequencies, so no power law fits them")
    return float(f"{amplitude:.6g}"), float(f"{-slope:.6g}")
