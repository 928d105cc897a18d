"""SADA: where the path of the samples is stable, calls of the network are skipped and the samples extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.skipped_calls import Seen, SolverRule
from postdiff.engine.state import State
from postdiff.methods.options import require
from postdiff.methods.solver_cache import SolverCache

__all__ = ["SADA"]

STEPS = 50  # of the run that the options are told for


@dataclass
class SADA(SolverCache):
    r"""Skip a call where the error of extrapolating the sample points against the curvature of its path.

    f is the derivative of the sample. Its last three values extrapolate x_(i+1). If the error of that, times the second
    difference of f, is at most 0 in the mean over the image, call i+1 is skipped: x0 is the last prediction read
    anew at the extrapolated sample. From step `late` on there is no criterion: calls 1, 1 + interval, ... are made, and
    x0 between them is the Lagrange polynomial through the last `terms` of those calls' x0. The solver steps with the
    true sample, and f at a skipped step is that of the last prediction.

    These are the step-wise parts of the method. What it does to tokens of the calls that are made is left out. Options
    that count steps are for runs of 50, and `first`, `last` and `late` are scaled to others. At a new size of the
    latents all begins anew.

    Two habits of the released code are kept with scale="code". It takes beta, which is of one training step, for one of
    the run's, so that the extrapolation is 1000 / T times too short. And for flows (FLUX) it asks whether the mean of
    the velocity's second difference is at least 0, and extrapolates the velocity: 2 v_i - v_(i-1), which in a second
    skipped step is v_i again; `late` and `interval` say only when. With "ode" steps have their true lengths, and flows
    are served like all others.

    Args:
        first: step of 50 after which the first call may be skipped.
        last: the last `last` - 1 calls of 50 are made, and the last one of any run.
        most: calls skipped in a row before `late`; 0 skips none there.
        late: step of 50 from which on calls are skipped by their number alone.
        interval: steps from one call to the next then.
        terms: points of the polynomial.
        scale: lengths of the steps over which samples are extrapolated, and the rule for flows.

    Equation:
        \hat x_{i+1} = x_i - h \left( \tfrac58 f_i + \tfrac34 f_{i-1} - \tfrac38 f_{i-2} \right), \qquad
        \overline{(x_{i+1} - \hat x_{i+1}) \, (f_i - 2 f_{i-1} + f_{i-2})} \le 0, \qquad
        f = \tfrac\beta2 (\epsilon / \sigma - x) \text{ or } v

    Works on:
        Every family, with solvers that keep a training schedule, and flows.

    Oracle:
        A loop written out over data whose best prediction is known, and one at the solver's step of the bare pipeline.

    Reference:
        Jiang et al., "SADA: Stability-guided Adaptive Diffusion Acceleration", ICML 2025, arXiv:2507.17135; the
        formulas are those of its code.
    """

    name: ClassVar[str] = "sada"

    first: int = 10
    last: int = 3
    most: int = 4
    late: int = 24
    interval: int = 4
    terms: int = 4
    scale: Literal["code", "ode"] = "code"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("first", 0), ("last", 2), ("most", 0), ("late", 0), ("interval", 1), ("terms", 1)):
            require(self, getattr(self, option) >= least, option, f"{least} or more")

    def rule(self, state: State) -> SolverRule:
        if noise_levels.is_flow(state.scheduler):
            return _Velocity(self, state) if self.scale == "code" else _Rule(self, state)
        if getattr(state.scheduler, "betas", None) is None:
            raise UsageError(
                f"SADA: {type(state.scheduler).__name__} keeps no training schedule (betas), by which the method "
                "extrapolates; use another solver, such as DDIM, DPM-Solver or Euler, or leave the method out"
            )
        return _Rule(self, state)


class _Rule:
    """For samples x = alpha * x0 + sigma * noise in coordinates of constant variance, and for flows as they are."""

    def __init__(self, options: SADA, state: State) -> None:
        def scaled(step: int) -> int:
            return int(step * state.steps / STEPS + 0.5)

        self.options, self.flow = options, noise_levels.is_flow(state.scheduler)
        self.first, self.late = scaled(options.first), scaled(options.late)
        self.end = state.steps - max(2, scaled(options.last))  # of decisions
        self.times = state.timesteps.tolist()
        if not self.flow:
            betas = state.scheduler.betas.tolist()
            self.betas = [betas[min(max(round(time), 0), len(betas) - 1)] for time in self.times]

    def guess(self, past: SimpleNamespace, now: Seen, state: State) -> Tensor:
        if state.index > self.late:
            return _lagrange(past.nodes, state.index)
        ahead = past.ahead * self._norm(now.alpha, now.sigma)
        return noise_levels.predict_x0(state.scheduler, now.prediction, now.timestep, ahead)

    def note(self, past: SimpleNamespace, now: Seen, state: State) -> None:
        step, norm = state.index, self._norm(now.alpha, now.sigma)
        x0 = noise_levels.predict_x0(state.scheduler, now.prediction, now.timestep, now.x, limited=False)
        noise = (now.x - now.alpha * x0) / now.sigma
        past.x, past.sigma = now.x / norm, now.sigma / norm
        f = noise - x0 if self.flow else self.betas[step] / 2 * (noise / past.sigma - past.x)
        past.f = [f, *getattr(past, "f", [])][:3]
        past.in_a_row = getattr(past, "in_a_row", 0) + 1 if now.skipped else 0
        past.nodes = getattr(past, "nodes", [])
        if step % self.options.interval == 1 % self.options.interval:
            past.nodes = [*past.nodes, (step, now.x0)][-self.options.terms :]

    def measure(self, past: SimpleNamespace, x: Tensor, alpha: Tensor, sigma: Tensor, state: State) -> Tensor | bool:
        step = state.index
        if not self.first <= step < self.end:
            return False
        if step >= self.late:
            return step % self.options.interval != 0 and self._ready(past)
        if past.in_a_row >= self.options.most or len(past.f) < 3:
            return False
        norm = self._norm(alpha, sigma)
        return self._criterion(past, x / norm, sigma / norm, step)

    def skips(self, past: SimpleNamespace, measured: float, state: State) -> bool:
        return measured <= 0

    def _ready(self, past: SimpleNamespace) -> bool:
        return bool(past.nodes)

    def _criterion(self, past: SimpleNamespace, x: Tensor, sigma: Tensor, step: int) -> Tensor:
        length: Tensor | float = 1.0
        if self.options.scale == "ode":
            length = past.sigma - sigma if self.flow else self.times[step] - self.times[step + 1]
        past.ahead = extrapolated(past.x, past.f, length)
        return criterion(x, past.ahead, past.f)

    def _norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha) if self.flow else (alpha**2 + sigma**2).sqrt()


class _Velocity(_Rule):
    """The code's own rule for flows."""

    def guess(self, past: SimpleNamespace, now: Seen, state: State) -> Tensor:
        return now.x - now.sigma * (2 * past.f[0] - past.f[1])

    def _ready(self, past: SimpleNamespace) -> bool:
        return len(past.f) >= 2

    def _criterion(self, past: SimpleNamespace, x: Tensor, sigma: Tensor, step: int) -> Tensor:
        return -bend(past.f).mean()


def bend(f: list[Tensor]) -> Tensor:
    """Second difference of the last three derivatives, newest first."""
    return f[0] - 2 * f[1] + f[2]


def extrapolated(x: Tensor, f: list[Tensor], length: Tensor | float) -> Tensor:
    """The next sample by the last three derivatives, newest first."""
    return x - length * (5 / 8 * f[0] + 3 / 4 * f[1] - 3 / 8 * f[2])


def criterion(x: Tensor, ahead: Tensor, f: list[Tensor]) -> Tensor:
    """At most 0 where the path is stable: `x` came out where `ahead` was extrapolated."""
    return ((x - ahead) * bend(f)).mean()


def _lagrange(nodes: list[tuple[int, Tensor]], step: int) -> Tensor:
    """The polynomial in the number of the step through all nodes."""
    total = torch.zeros_like(nodes[0][1])
    for at, x0 in nodes:
        weight = 1.0
        for other, _ in nodes:
            weight *= 1 if other == at else (step - other) / (at - other)
        total = total + weight * x0
    return total
