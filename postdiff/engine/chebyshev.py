"""Forecasts by a ridge regression on Chebyshev polynomials, as weights of the values that were seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["forecast"]


def forecast(
    steps: Sequence[int],
    now: int,
    run: int,
    *,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    penalised: bool = False,
) -> list[float]:
    """Of what was seen at `steps`, rising, the weights in the forecast for the step `now`.

    Args:
        steps: at which something was seen, one at least.
        now: step of the forecast.
        run: number of steps that the polynomials' interval is spread over.
        degree: of the polynomials, at most one less than there are steps.
        ridge: penalty of the squared coefficients.
        blend: share of the polynomials; the rest is the share of the line through the last two.
        penalised: whether the penalty is on the constant too; if not, the weights add up to 1.
    """
    basis = np.polynomial.chebyshev.chebvander(2 * np.array([*steps, now]) / run - 1, min(degree, len(steps) - 1))
    penalty = np.sqrt(ridge) * np.eye(basis.shape[1])
    if not penalised:
        penalty[0, 0] = 0
    # Least squares on the penalty's rows as well: the normal equations would lose half of the digits.
    weights = blend * (basis[-1] @ np.linalg.pinv(np.vstack([basis[:-1], penalty])))[: len(steps)]
    weights[-1] += 1 - blend
    if len(steps) > 1:
        slope = (1 - blend) * (now - steps[-1]) / (steps[-1] - steps[-2])
        weights[-2:] += -slope, slope
    return [float(weight) for weight in weights]
