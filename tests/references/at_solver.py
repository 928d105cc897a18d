"""The formulas of methods that leave whole calls of the network out by what the solver sees, for one image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from postdiff.engine import noise_levels
from tests.references.slow_run import Reference, Setting

__all__ = ["REFERENCES"]


class Held:
    """What is common: at steps in `left_out` the network gives what it gave before."""

    def __init__(self, method: Any, run: Setting) -> None:
        self.method, self.run, self.scheduler = method, run, run.scheduler
        self.restart()

    def restart(self) -> None:
        self.left_out: set[int] = set()
        self.held: dict[str, Tensor] = {}

    def predictions(self, step: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        if step not in self.left_out:
            self.held = {**found}
        return self.held

    def given(self, x0: Tensor, output: Tensor, time: Tensor, x: Tensor) -> Tensor:
        """The prediction behind `x0`; what there is beyond it (a variance) stays."""
        prediction = noise_levels.prediction_of(self.scheduler, x0, time, x)
        return torch.cat([prediction, output[:, x.shape[1] :]], 1)


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


class SADA(Held):
    """x0 of the last prediction read at x^, of the Lagrange polynomial, or of 2 v_i - v_(i-1) (flows, scale "code")."""

    def restart(self) -> None:
        super().restart()
        self.f: list[Tensor] = []
        self.v: list[Tensor] = []
        self.x0: dict[int, Tensor] = {}

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
        length = 1.0
        if self.method.scale == "ode":
            length = sigma - after if flow else self.run.timesteps[t] - self.run.timesteps[t + 1]
        self.ahead = x - length * (5 * now + 6 * one - 3 * two) / 8
        following = following if flow else following / (alpha**2 + after**2) ** 0.5
        return float(((following - self.ahead) * (now - 2 * one + two)).mean()) <= 0


def lagrange(nodes: list[int], t: int) -> dict[int, float]:
    """Weights of the polynomial through the nodes, at t."""
    return {s: math.prod((t - other) / (s - other) for other in nodes if other != s) for s in nodes}


def _at_solver(formula: type[Held]) -> Callable[[Any, Setting], Reference]:
    return lambda method, run: Reference({}, lambda *_: None, solver=formula(method, run))


REFERENCES = {"LazyCache": _at_solver(LazyCache), "SADA": _at_solver(SADA)}
