"""Key steps from measurements: the set of a given size that keeps propagated features least stale.

Faster Diffusion places its keys by hand after looking at feature changes (App. G). Here the choice is a small problem
with an exact answer. If step t between key steps uses the features of the last key step k(t), its error is the squared
distance D[k(t), t]; the keys minimise its (weighted) sum over all steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError, unknown

__all__ = ["select_keys", "solver_weights", "staleness"]

# Error of the noise by that of the prediction, at level r = sigma / alpha. A v-prediction is of a variance-preserving
# process (alpha = 1 / sqrt(1 + r^2)), a flow has alpha = 1 - sigma = 1 / (1 + r).
TO_NOISE: dict[str, Callable[[float], float]] = {
    "epsilon": lambda level: 1.0,
    "v_prediction": lambda level: (1 + level**2) ** -0.5,
    "sample": lambda level: 1 / level,
    "flow_prediction": lambda level: 1 / (1 + level),
}


def select_keys(distance: Tensor, count: int, weights: Sequence[float] | None = None) -> list[int]:
    """The `count` key steps with the smallest staleness, by dynamic programming; step 0 is always one.

    Args:
        distance: (T, T), the error of step t (second index) on the features of step s (first), for s < t. The rest
            is not read.
        count: number of key steps.
        weights: (T,), how much the error of each step counts; all alike if omitted.

    Returns:
        The steps, in order. Of several best sets, the one whose last keys are earliest.

    Raises:
        UsageError: more keys than steps, or fewer than one.
    """
    steps = len(distance)
    if not 1 <= count <= steps:
        raise UsageError(f"{count} key steps do not fit a run of {steps} steps; use 1 to {steps}")
    weighted = _weighted(distance, weights)
    # run[s, e]: the error of steps s+1 .. e-1 on the features of s.
    run = torch.zeros(steps, steps + 1, dtype=torch.float64)
    run[:, 1:] = weighted.triu(1).cumsum(1)
    # best[e]: the smallest error of steps before e with the keys placed so far, all of them before e.
    best = torch.full((steps + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0
    chosen: list[Tensor] = []
    for _ in range(count):
        total = best[:steps, None] + run
        total[torch.arange(steps)[:, None] >= torch.arange(steps + 1)] = torch.inf
        best, last = total.min(0)
        chosen.append(last)
    keys, end = [], steps
    for last in reversed(chosen):
        end = int(last[end])
        keys.append(end)
    return keys[::-1]


def staleness(distance: Tensor, keys: Sequence[int], weights: Sequence[float] | None = None) -> float:
    """The (weighted) sum of the errors of all steps if these are the key steps; arguments as of `select_keys`."""
    weighted, total, key = _weighted(distance, weights), 0.0, 0
    for step in range(len(distance)):
        if step in keys:
            key = step
        else:
            total += float(weighted[key, step])
    return total


def solver_weights(levels: Sequence[float], prediction: str = "epsilon") -> list[float]:
    """How much a step's squared prediction error moves the final latents, if the noise predicted later stays the same.

    In units of clean latents, x / alpha, every first-order solver moves by the predicted noise times the difference
    of sigma / alpha between two steps; so an error of the noise counts with the square of that difference. What else
    a network predicts is turned into noise by a factor that depends on the level alone.

    Args:
        levels: sigma / alpha at each step and at the end of the run, T + 1 numbers.
        prediction: "epsilon", "v_prediction", "sample" or "flow_prediction".

    Raises:
        UsageError: another kind of prediction.
    """
    if prediction not in TO_NOISE:
        raise unknown("kind of prediction", prediction, TO_NOISE)
    factor = TO_NOISE[prediction]
    return [(now - then) ** 2 * factor(now) ** 2 for now, then in itertools.pairwise(levels)]


def _weighted(distance: Tensor, weights: Sequence[float] | None) -> Tensor:
    found = distance.double()
    return found if weights is None else found * torch.tensor(weights, dtype=torch.float64)
