"""How far what encoder propagation keeps is from itself, between any two steps of a run: what key steps rest on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from postdiff.engine import noise_levels
from postdiff.engine.halves import halves_of
from postdiff.engine.state import State
from postdiff.lab.analysis.feature_blocks import main_output, tensors_in, watch
from postdiff.methods.base import Method, StepCall

__all__ = ["FeatureDistances", "Sketch"]


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
