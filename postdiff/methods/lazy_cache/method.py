"""LazyCache: what the guided network has added to the sample is reused while the sample has hardly moved."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.skipped_calls import Seen, SolverRule
from postdiff.engine.state import State
from postdiff.methods.options import require
from postdiff.methods.solver_cache import SolverCache

__all__ = ["LazyCache"]

LEAST_SIGNAL = 2**-12  # schedules without any at their end are given as much by solvers that divide by it


@dataclass
class LazyCache(SolverCache):
    r"""Leave a call of the network out while the guided x0 can hardly have changed, and reuse the last x0 - x.

    The rate k is that at which x0 followed the sample between the last two calls. While k times the distance that the
    sample has gone from the last call, relative to |x0| then, adds up to less than `threshold`, the network is not
    called. Within a run of skipped calls these distances grow, so their sum grows like 1 + 2 + 3. Samples are taken in
    units of the image, x0 + noise; those of flows are as they are.

    After the window nothing is skipped, and what is computed before it counts for x_k and x0_k but not for the rate. So
    one call in the window is made before the first is skipped.

    ComfyUI decides for the whole batch at once; here each image is decided for itself. Of flows that are shifted it
    counts the window before the shift; here a share of 0.15 is where sigma is 0.85.

    Args:
        threshold: sum up to which calls are left out, relative to |x0|; 0 computes everything.
        begin: share of the training timesteps that has passed when the window begins.
        end: share at which it ends.
        stride: distances are taken on every so many rows and columns of the latents.

    Equation:
        \hat x_0 = x_t + (x_{0,k} - x_k) \qquad \text{while } \sum_{i=k+1}^{t} \kappa \,
        \frac{|x_i - x_k|}{|x_{0,k}|} < \tau, \qquad \kappa = \frac{|x_{0,k} - x_{0,j}|}{|x_k - x_j|},
        \quad j < k \text{ the last two calls}

    Works on:
        Every family, with solvers whose timesteps are those of training.

    Oracle:
        A loop at the solver's step of the bare pipeline, in which the network is called at every step.

    Reference:
        LazyCache of ComfyUI, its variant of Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration
        via Runtime-Adaptive Caching" (EasyCache), arXiv:2507.02860, for the guided prediction of any model.
    """

    name: ClassVar[str] = "lazy_cache"

    threshold: float = 0.2
    begin: float = 0.15
    end: float = 0.95
    stride: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.threshold >= 0, "threshold", "0 or more")
        require(self, 0 <= self.begin <= 1, "begin", "a share of the training timesteps (0.0 to 1.0)")
        require(self, self.begin <= self.end <= 1, "end", f"from begin={self.begin} to 1.0")
        require(self, self.stride >= 1, "stride", "1 or more")

    def rule(self, state: State) -> SolverRule:
        if (state.timesteps < 0).any():
            raise UsageError(
                f"LazyCache: {type(state.scheduler).__name__} counts in logarithms of noise levels, and begin and end "
                "are shares of the training timesteps; use another solver, or leave the method out"
            )
        passed = 1 - state.timesteps.double() / state.scheduler.config.num_train_timesteps
        return _Rule(self, [self.begin <= share < self.end for share in passed.tolist()], state)


class _Rule:
    def __init__(self, options: LazyCache, within: list[bool], state: State) -> None:
        self.options, self.within = options, within
        self.last = max((step for step, inside in enumerate(within) if inside), default=-1)
        self.flow = noise_levels.is_flow(state.scheduler)

    def guess(self, past: SimpleNamespace, now: Seen, state: State) -> Tensor:
        residual: Tensor = past.residual
        return self._in_units_of_x0(now.x, now.alpha) + residual

    def note(self, past: SimpleNamespace, now: Seen, state: State) -> None:
        if now.skipped or state.index > self.last:
            return
        x = self._in_units_of_x0(now.x, now.alpha)
        coarse, clean = self._coarse(x), self._coarse(now.x0)
        if self.within[state.index] and hasattr(past, "x"):
            past.rate = (clean - past.x0).abs().mean() / (coarse - past.x).abs().mean()
        past.x, past.x0, past.size, past.residual = coarse, clean, now.x0.abs().mean(), now.x0 - x

    def measure(self, past: SimpleNamespace, x: Tensor, alpha: Tensor, sigma: Tensor, state: State) -> Tensor | bool:
        if not self.within[state.index + 1] or not hasattr(past, "rate"):
            return False
        return past.rate * (self._coarse(self._in_units_of_x0(x, alpha)) - past.x).abs().mean() / past.size

    def skips(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        past.sum = getattr(past, "sum", 0.0) + measured
        if past.sum < self.options.threshold:
            return True
        past.sum = 0.0
        return False

    def _in_units_of_x0(self, x: Tensor, alpha: Tensor) -> Tensor:
        return x if self.flow else x / alpha.clamp(min=LEAST_SIGNAL)

    def _coarse(self, x: Tensor) -> Tensor:
        return x[..., :: self.options.stride, :: self.options.stride].clone()
