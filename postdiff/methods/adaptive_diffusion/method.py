"""AdaptiveDiffusion: the network is left out while the latents change from step to step as evenly as before."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from postdiff.engine.replay import NETWORK, Replay, Watch
from postdiff.engine.state import State
from postdiff.methods.base import StepCall
from postdiff.methods.cache import Cache, NetworkFill
from postdiff.methods.options import later, require

__all__ = ["AdaptiveDiffusion"]


@dataclass
class AdaptiveDiffusion(Cache):
    r"""Replay the network's output while the change of the latents, from step to step, lies on a line.

    D is the mean absolute change of an image's latents over a step of its solver. The next step is left out if the
    last three D are nearly on a line, which is a third difference of the latents. The authors take D of the whole batch
    and bound the skips in a row only once five decisions are made; here every image decides for itself, and the bound
    always holds. On a smooth path nearly every step qualifies, so that `most` sets the cost.

    Args:
        threshold: how far off the line they may lie, as a share of the middle one.
        most: steps left out in a row at most; 0 computes everything.
        warmup: steps at the beginning that are computed, at least 3.
        last: steps at the end that are computed; the authors have 0.
        fill: what stands in: the output, as the authors have it, what the network added to its input, the output
            continued in a line or a parabola, or Spectrum's forecast from all computed steps.

    Equation:
        y_t = y_k \quad \text{while } \left| \frac{D_{t-1} + D_{t-3}}{2} - D_{t-2} \right| \le \delta D_{t-2},
        \qquad D_i = |x_{i+1} - x_i|

    Works on:
        Every family.

    Oracle:
        A straight loop over the network in float64.

    Reference:
        Ye et al., "Training-Free Adaptive Diffusion with Bounded Difference Approximation Strategy", NeurIPS 2024,
        arXiv:2410.09873.
    """

    innermost: ClassVar[float] = 0.5
    adaptive: ClassVar[bool] = True
    threshold: float = 0.01
    most: int = 4
    warmup: int = 4
    last: int = 1
    fill: NetworkFill = later("output")  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        require(self, self.most >= 0, "most", "0 or more")
        require(self, self.warmup >= 3, "warmup", "3 or more, for the rule looks at three changes")
        require(self, self.last >= 0, "last", "0 or more")

    def replays(self, network: nn.Module) -> list[Replay]:
        self.changes: list[Tensor] = []  # the last three, (images,) each
        return [Replay(NETWORK, _Even(self), self.network_fill(self.fill), name="adaptive_diffusion")]

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        moved = forward(output, timestep, sample)
        change = moved - sample
        if state.family.step_rows == "doubled":  # both halves of guidance are the same
            change = change[: state.samples]
        wide = torch.promote_types(change.dtype, torch.float32)
        self.changes = [
            *self.changes[-2:],
            change.abs().unflatten(0, (state.samples, -1)).flatten(1).mean(1, dtype=wide),
        ]
        return moved


@dataclass
class _Even(Watch):
    method: AdaptiveDiffusion
    together: ClassVar[bool] = True

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        if not self.method.warmup <= state.index < state.steps - self.method.last:
            return None
        first, second, third = (change[past.image] for change in self.method.changes)
        return ((first + third) / 2 - second).abs() / second

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        if measured <= self.method.threshold and past.row < self.method.most:
            past.row += 1
            return False
        return True

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        past.row = 0
