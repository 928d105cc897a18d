"""EasyCache: the network is left out while the change expected of its output, told by that of its input, is small."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from postdiff.engine.replay import NETWORK, Replay, Watch
from postdiff.engine.state import State
from postdiff.methods.cache import Cache, NetworkFill
from postdiff.methods.options import require, require_moment

__all__ = ["EasyCache"]


@dataclass
class EasyCache(Cache):
    r"""Replay what the whole network added to its input, while the expected changes of its output add up to little.

    How much the output changes for a change of the input is measured between computed steps. At every step this gain
    turns the input's change into one expected of the output. The sum of these since the last computed step stays below
    `threshold` as long as the network is left out. The conditional branch of an image decides for all of its branches.

    The name stands for three rules, whose thresholds do not carry over. The authors' is the default (threshold 0.05 for
    Wan, 0.025 for HunyuanVideo). ComfyUI's is `distance` "computed", `stride` 8, `threshold` 0.2, `warmup` 0.15 and
    `last` 0.05; the last two are of the noise schedule there. That of stable-diffusion.cpp for U-Nets is `distance`
    "computed", `scale` "ucache", `threshold` 1.0, `warmup` 0.15 and `last` 0.05. Solvers that add noise or call the
    network twice a step change the input too much for any of them.

    Args:
        threshold: 0 computes everything.
        warmup: steps at the beginning that are computed.
        last: how many at the end are.
        distance: the input's change since the step before, or since the last computed step.
        scale: what expected changes are shares of: the mean output, or the geometric mean of that and of its usual
            change; then a step counts more, the more were left out before it, and the threshold rises along the run.
        replay: what stands in: what the network added to its input, its output, the output continued in a line or a
            parabola, or Spectrum's forecast from all computed steps. Where the network predicts noise, the output is
            exact on a straight path, and what it added is not.
        stride: changes are measured in every such row and column.
        most: steps left out in a row at most; null for any number.

    Equation:
        y_t = x_t + (y_k - x_k) \quad \text{while } \sum_{i=k+1}^{t}
        \frac{|y_k - y_j|}{|x_k - x_j|} \frac{|x_i - x_{i-1}|}{|y_k|} < \delta,
        \qquad j, k \text{ the last two computed steps}

    Works on:
        Every family.

    Oracle:
        A straight loop over the network in float64.

    Reference:
        Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching",
        arXiv:2507.02860; ComfyUI's EasyCache node; ucache of stable-diffusion.cpp.
    """

    innermost: ClassVar[float] = 0.5
    adaptive: ClassVar[bool] = True
    threshold: float = 0.05
    warmup: int | float = 0.2
    last: int | float = 1
    distance: Literal["neighbour", "computed"] = "neighbour"
    scale: Literal["output", "ucache"] = "output"
    replay: NetworkFill = "residual"
    stride: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        require_moment(self, "warmup")
        require_moment(self, "last")
        require(self, self.stride >= 1, "stride", "1 or more")
        require(self, self.most is None or self.most >= 0, "most", "0 or more, or null")

    def replays(self, network: nn.Module) -> list[Replay]:
        return [Replay(NETWORK, _Expected(self), self.network_fill(self.replay), name="easy_cache")]

    def start(self, state: State) -> None:
        begin, last = (state.step_of(getattr(self, name), f"EasyCache: {name}") for name in ("warmup", "last"))
        self.window = range(begin, state.steps - last)
        super().start(state)


@dataclass
class _Expected(Watch):
    """The notebook: x and y of the last computed step, their gain, the usual change of y, sum and row of skips."""

    method: EasyCache
    together: ClassVar[bool] = True

    def measure(self, past: SimpleNamespace, seen: Tensor, state: State) -> Tensor | None:
        neighbour: Any = getattr(past, "seen", None)
        past.seen = seen = self._thinned(seen)
        if state.index not in self.method.window or not hasattr(past, "gain"):
            return None
        before = neighbour if self.method.distance == "neighbour" else past.x
        scale = past.size if self.method.scale == "output" else (past.size * 1.6 * past.usual).sqrt()
        return past.gain * _mean(seen - before) / scale

    def due(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        threshold, most = self.method.threshold, self.method.most
        if self.method.scale == "ucache":
            measured *= 1 + past.row / 2
            share = past.computed_steps / state.steps
            threshold *= 0.5 if share < 0.2 else 1.5 if share > 0.8 else 1.0
        past.total += measured
        if past.total < threshold and (most is None or past.row < most):
            past.row += 1
            return False
        return True

    def note(self, past: SimpleNamespace, seen: Tensor, x: Tensor, y: Tensor, state: State) -> None:
        past.total, past.row = 0.0, 0
        if self.method.distance == "computed" and state.index < self.method.window.start:
            return  # these two rules look at nothing before
        past.computed_steps = getattr(past, "computed_steps", 0) + (state.index in self.method.window)
        x, y, size = self._thinned(x), self._thinned(y), _mean(y)
        if hasattr(past, "y"):
            change, moved = _mean(y - past.y), _mean(x - past.x)
            past.gain = change / moved.clamp_min(torch.finfo(moved.dtype).tiny)
            past.usual = 0.8 * past.usual + 0.2 * change if hasattr(past, "usual") else change
        past.x, past.y, past.size = x, y, size

    def _thinned(self, tensor: Tensor) -> Tensor:
        return tensor[..., :: self.method.stride, :: self.method.stride]


def _mean(tensor: Tensor) -> Tensor:
    """Of absolute values; in single precision at least, so that a threshold means the same in half."""
    return tensor.abs().mean(dtype=torch.promote_types(tensor.dtype, torch.float32))
