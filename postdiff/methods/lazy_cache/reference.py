"""The formula of LazyCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.methods.formulas import Held, at_solver

__all__ = ["reference"]


class LazyCache(Held):
    """x0_t = u_t + (x0_k - u_k) while sum_i kappa |u_i - u_k| / |x0_k| < tau, u = x / alpha, or x of a flow."""

    def restart(self) -> None:
        super().restart()
        self.calls: list[tuple[int, Tensor, Tensor]] = []
        self.sum = 0.0

    def inside(self, step: int) -> bool:
        return self.method.begin <= 1 - self.run.timesteps[step] / 1000 < self.method.end

    def u(self, x: Tensor, time: Tensor) -> Tensor:
        flow = hasattr(self.scheduler, "scale_noise") or getattr(self.scheduler.config, "use_flow_sigmas", False)
        return x if flow else x / noise_levels.level(self.scheduler, time)[0]

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        n = self.method.stride
        return (one[..., ::n, ::n] - other[..., ::n, ::n]).abs().mean()

    def step(self, make: Callable[[Tensor], Tensor], t: int, output: Tensor, time: Any, x: Tensor) -> None:
        u = self.u(x, time)
        if t in self.left_out:
            _, u_k, x0_k = self.calls[-1]
            output = self.given(u + (x0_k - u_k), output, time, x)
        elif any(self.inside(s) for s in range(t, self.run.steps)):
            self.calls.append((t, u, noise_levels.predict_x0(self.scheduler, output, time, x)))
        following = make(output)
        if (
            t + 1 == self.run.steps
            or not self.inside(t + 1)
            or len(self.calls) < 2
            or not self.inside(self.calls[-1][0])
        ):
            return
        (_, u_j, x0_j), (_, u_k, x0_k) = self.calls[-2:]
        kappa = self.distance(x0_k, x0_j) / self.distance(u_k, u_j)
        ahead = self.u(following, self.scheduler.timesteps[-self.run.steps :][t + 1])
        self.sum += float(kappa * self.distance(ahead, u_k) / x0_k.abs().mean())
        if self.sum < self.method.threshold:
            self.left_out.add(t + 1)
        else:
            self.sum = 0.0


reference = at_solver(LazyCache)
