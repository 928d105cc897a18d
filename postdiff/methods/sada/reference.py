"""The formula of SADA in the symbols of its paper, without speed and without state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.methods.formulas import Held, at_solver

__all__ = ["reference"]


class SADA(Held):
    """x0 of the last prediction read at x^, of the Lagrange polynomial, or of 2 v_i - v_(i-1) (flows, scale "code")."""

    def restart(self) -> None:
        super().restart()
        self.f: list[Tensor] = []
        self.v: list[Tensor] = []
        self.x0: dict[int, Any] = {}

    def at(self, step: int) -> int:
        """A step of 50 in this run."""
        return int(step * self.run.steps / 50 + 0.5)

    def step(self, make: Callable[[Tensor], Tensor], t: int, output: Tensor, time: Any, x: Tensor) -> None:
        flow = hasattr(self.scheduler, "scale_noise") or getattr(self.scheduler.config, "use_flow_sigmas", False)
        own = flow and self.method.scale == "code"
        alpha, sigma = noise_levels.level(self.scheduler, time)
        size = 1.0 if flow else (alpha**2 + sigma**2) ** 0.5
        late = t > self.at(self.method.late)
        clean = noise_levels.predict_x0(self.scheduler, output, time, x, limited=False)
        v = (x - clean) / sigma
        self.x0[t] = noise_levels.predict_x0(self.scheduler, output, time, x)
        if t in self.left_out:
            if own:
                self.x0[t] = x - sigma * (2 * self.v[-1] - self.v[-2])
            elif late:
                nodes = [s for s in self.x0 if s < t and s % self.method.interval == 1][-self.method.terms :]
                self.x0[t] = sum(weight * self.x0[s] for s, weight in lagrange(nodes, t).items())
            else:
                self.x0[t] = noise_levels.predict_x0(self.scheduler, output, time, self.ahead * size)
            output = self.given(self.x0[t], output, time, x)
        self.v.append(v)
        beta = 0.0 if flow else float(self.scheduler.betas[min(round(float(time)), 999)])
        noise = (x - alpha * clean) / sigma
        self.f.append(v if flow else beta / 2 * (noise * size / sigma - x / size))
        following = make(output)
        if self.at(self.method.first) <= t < self.run.steps - max(2, self.at(self.method.last)):
            following_time = self.scheduler.timesteps[-self.run.steps :][t + 1]
            if self.skips(t, own, flow, x / size, sigma, following, following_time):
                self.left_out.add(t + 1)

    def skips(self, t: int, own: bool, flow: bool, x: Tensor, sigma: Tensor, following: Tensor, time: Tensor) -> bool:
        if t >= self.at(self.method.late):
            known = len(self.v) > 1 if own else any(s % self.method.interval == 1 for s in self.x0)
            return known and t % self.method.interval != 0
        before = [s in self.left_out for s in range(t - self.method.most + 1, t + 1)]
        if len(self.f) < 3 or all(before):
            return False
        two, one, now = self.f[-3:]
        if own:
            return float((-(now - one) + (one - two)).mean()) <= 0
        alpha, after = noise_levels.level(self.scheduler, time)
        length: Any = 1.0
        if self.method.scale == "ode":
            length = sigma - after if flow else self.run.timesteps[t] - self.run.timesteps[t + 1]
        self.ahead = x - length * (5 * now + 6 * one - 3 * two) / 8
        following = following if flow else following / (alpha**2 + after**2) ** 0.5
        return float(((following - self.ahead) * (now - 2 * one + two)).mean()) <= 0


def lagrange(nodes: list[int], t: int) -> dict[int, float]:
    """Weights of the polynomial through the nodes, at t."""
    return {s: math.prod((t - other) / (s - other) for other in nodes if other != s) for s in nodes}


reference = at_solver(SADA)
