"""How much signal a model's clean latents have at each frequency, and from which noise level on it matters.

The power of a wave of w cycles over the shorter side is A w^-b per orthonormal coefficient. At noise over signal rho a
wave of power P tells a network's best prediction of it from one of pure noise, in the mean square, by
(1 + P) q / (1 + q) with q = P / rho^2. Where that is less than a tolerance the wave need not be computed yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff.engine.errors import UsageError, shown

__all__ = ["PowerLaw", "moments", "power_law"]

_WHOLE = ("height", "width", "channels")
_KEYS = ("amplitude", "exponent", *_WHOLE, "scaling")


@dataclass(frozen=True)
class PowerLaw:
    """A fit to the clean latents of one model at one size.

    Attributes:
        amplitude: A, power at one cycle a side. It grows with the number of pixels.
        exponent: b.
        height: of the latents that it was fitted to, in latent pixels.
        width: likewise.
        channels: of these latents.
        scaling: what their VAE's `scaling_factor` is; 1 if it has none.
    """

    amplitude: float
    exponent: float
    height: int
    width: int
    channels: int
    scaling: float

    def power(self, share: float) -> float:
        """That of the longest wave which latents of `share` of the side do not hold."""
        return float(self.amplitude * (share * min(self.height, self.width) / 2) ** -self.exponent)

    def last_ratio(self, share: float, tolerance: float) -> float:
        """Noise over signal, sigma / alpha, down to which latents of `share` of the side are enough.

        Args:
            share: small side over full side, in (0, 1).
            tolerance: mean square by which the prediction of a wave may be off, in (0, 1).
        """
        power = self.power(share)
        return math.sqrt(power * (1 + power - tolerance) / tolerance)

    def check_model(self, vae: Any, method: str) -> None:
        """Raise a `UsageError` in the name of `method` where a pipeline's VAE (or None) makes other latents."""
        config = getattr(vae, "config", None)
        channels = getattr(config, "latent_channels", None) or getattr(config, "z_dim", None)
        scaling = float(getattr(config, "scaling_factor", None) or 1.0)
        if channels and (channels != self.channels or not math.isclose(scaling, self.scaling, rel_tol=1e-3)):
            raise UsageError(
                f"{method}: spectrum is of latents with {self.channels} channels scaled by {self.scaling:g}, and this "
                f"pipeline's have {channels} scaled by {scaling:g}; {_REMEDY}"
            )

    def check_size(self, size: tuple[int, int], method: str) -> None:
        """Raise a `UsageError` in the name of `method` where the latents of a run are of another (height, width)."""
        if size != (self.height, self.width):
            raise UsageError(
                f"{method}: spectrum is of {self.height} x {self.width} latent pixels, and this run has {size[0]} x "
                f"{size[1]}; {_REMEDY}"
            )


_REMEDY = "make one for this model and size with experiments/calibrate.py"


def power_law(values: object, method: str) -> PowerLaw:
    """The fit that a mapping of numbers holds.

    Raises:
        UsageError: in the name of `method`: a number is missing, one too many, or none that a fit can have.
    """
    if not isinstance(values, Mapping) or sorted(map(str, values)) != sorted(_KEYS):
        raise UsageError(f"{method}: spectrum={shown(values)} must have the keys {', '.join(_KEYS)}; {_REMEDY}")
    for key, value in values.items():
        known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        if not known or (key in _WHOLE and value != int(value)):
            kind = "whole number" if key in _WHOLE else "number"
            raise UsageError(f"{method}: {key}={shown(repr(value))} of spectrum must be a {kind} above 0; {_REMEDY}")
    height, width, channels = (int(values[key]) for key in _WHOLE)
    return PowerLaw(values["amplitude"], values["exponent"], height, width, channels, values["scaling"])


def moments(
    law: PowerLaw,
    shares: Sequence[float],
    tolerance: float,
    ratios: Mapping[int, float],
    strict: bool,
    method: str,
) -> list[int]:
    """The first step after each stage of small latents: that whose noise over signal the stage no longer serves.

    Args:
        law: of the run's latents.
        shares: sides of the stages over the full side, rising.
        tolerance: as for `PowerLaw.last_ratio`.
        ratios: noise over signal, before any switch, of every step at which the size may change, the first among them.
        strict: hold the tolerance after the switch too, where noise over signal is higher by the ratio of the sides.
        method: in whose name to complain.

    Raises:
        UsageError: a stage would have no step, or the full size none.
    """
    first, *_, last = [ratios[0], *ratios.values()]
    found: list[int] = []
    for share, following in zip(shares, [*shares[1:], 1.0], strict=True):
        limit = law.last_ratio(share, tolerance) / (following / share if strict else 1)
        step = next((step for step, ratio in ratios.items() if ratio <= limit), None)
        if not step:
            where, instead = ("every", "smaller") if step is None else ("no", "larger")
            raise UsageError(
                f"{method}: switch='auto' finds {where} step of this run small enough at beta={share:g}: small latents "
                f"serve while noise over signal is above {limit:.3g}, and it goes from {first:.3g} to {last:.3g}; "
                f"use a {instead} tolerance"
            )
        if step in found:
            raise UsageError(
                f"{method}: switch='auto' leaves no step to beta={share:g}; take it further from the one before"
            )
        found.append(step)
    return found
