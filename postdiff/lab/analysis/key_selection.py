"""Key steps from measurements: the set of a given size that keeps propagated features least stale.

Faster Diffusion places its keys by hand after looking at feature changes (App. G). Here the choice is a small problem
with an exact answer. If step t between key steps uses the features of the last key step k(t), its error is the squared
distance D[k(t), t], which `FeatureDistances` measures; the keys minimise its (weighted) sum over all steps.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.halves import halves_of
from postdiff.engine.state import State
from postdiff.lab.analysis.feature_blocks import main_output, tensors_in, watch
from postdiff.methods.base import Method, StepCall

__all__ = ["FeatureDistances", "Sketch", "select_keys", "solver_weights", "staleness"]

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


class Sketch:
    """Short vectors with almost the distances of the long ones: every coordinate is added, with a random sign, to a
    random one of `width` sums (count sketch).

    The squared length of a sketch is that of the vector on average, with a relative standard deviation below
    sqrt(2 / width). Vectors that are not longer than `width` stay as they are.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        """(rows, n) to (rows, width)."""
        length = rows.shape[1]
        if length <= self.width:
            return rows
        if length not in self._drawn:
            own = torch.Generator().manual_seed(int(hashlib.sha256(str(length).encode()).hexdigest()[:12], 16))
            places = torch.randint(self.width, (length,), generator=own)
            signs = torch.randint(2, (length,), generator=own) * 2.0 - 1
            self._drawn[length] = (places.to(rows.device), signs.to(rows.device))
        places, signs = self._drawn[length]
        return rows.new_zeros(len(rows), self.width).index_add_(1, places, rows * signs)


class FeatureDistances(Method):
    """Changes nothing; measures the squared distances between all steps of the features that a decoder reads.

    These are, for a U-Net, the output of `conv_in`, every skip connection and the middle block's output; for a
    transformer the output of its encoder's last block. A ControlNet's residuals are not among them.

    Args:
        width: numbers kept of each of them, sample and step; 0 keeps them whole, which is exact.
        split: number of blocks in a transformer's encoder; 18 of 28 if null.

    Attributes:
        squared: {feature: (steps, steps) sum over all rows of |F_s - F_t|^2}.
        power: {feature: (steps,) sum over all rows of |F_t|^2}.
        levels: noise to signal, sigma / alpha, at each step and, at the end, 0.
        prediction: what the network predicts, as schedulers call it.
    """

    innermost: ClassVar[bool] = True

    def __init__(self, width: int = 4096, split: int | None = None) -> None:
        super().__init__()
        self.width, self.split = width, split
        self.squared: dict[str, Tensor] = {}
        self.power: dict[str, Tensor] = {}
        self.levels: list[float] = []
        self._predictions: list[str] = []

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        halves = halves_of(network, "FeatureDistances", self.split)
        sketch = Sketch(self.width) if self.width else Sketch(2**62)
        before: dict[str, list[Tensor]] = {}
        kept = halves.encoder if halves.skips else dict([list(halves.encoder.items())[-1]])
        for name, module in kept.items():
            pick = tensors_in if halves.skips else main_output

            def see(step: int, tensors: list[Tensor], name: str = name) -> None:
                for i, tensor in enumerate(tensors):
                    label = name if len(tensors) == 1 else f"{name}.{i}"
                    self._add(label, step, sketch(tensor.flatten(0, 1).flatten(1)), before, state.steps)

            yield watch(module, state, pick, see)

    def start(self, state: State) -> None:
        self.levels.clear()
        self._predictions[:] = [getattr(state.scheduler.config, "prediction_type", "flow_prediction")]

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        alpha, sigma = noise_levels.level(state.scheduler, torch.as_tensor(timestep, device=sample.device))
        self.levels.append(float(sigma / alpha))
        if state.index + 1 == state.steps:
            self.levels.append(0.0)
        return forward(output, timestep, sample)

    @property
    def prediction(self) -> str:
        return self._predictions[0]

    def relative(self) -> Tensor:
        """(steps, steps) squared distances, each feature's in units of its own mean square, mean over features.

        1 means as far as the features are long; so one large feature does not hide the others.
        """
        each = [self.squared[name] / self.power[name].mean() for name in self.squared]
        return torch.stack(each).mean(0)

    def _add(self, label: str, step: int, rows: Tensor, before: dict[str, list[Tensor]], steps: int) -> None:
        seen = before.setdefault(label, [])
        squared = self.squared.setdefault(label, torch.zeros(steps, steps, dtype=torch.float64))
        self.power.setdefault(label, torch.zeros(steps, dtype=torch.float64))[step] += float(rows.square().sum())
        for other, past in enumerate(seen):
            distance = float((rows - past).square().sum())
            squared[other, step] += distance
            squared[step, other] += distance
        seen.append(rows)
