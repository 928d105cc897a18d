"""Spectrum: between computed steps, the network's output is forecast by polynomials fitted to all computed ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from torch import nn

from postdiff.engine.chebyshev import forecast
from postdiff.engine.replay import NETWORK, Due, Replay, Weighted, at
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require

__all__ = ["Spectrum"]


@dataclass
class Spectrum(Cache):
    r"""Forecast the whole network's output by a ridge regression on Chebyshev polynomials of the step.

    The forecast is mixed with the line through the last two computed steps. Either is a weighted sum of the computed
    outputs, and so is the mixture, with weights that are the same for every element; they are found once a step, in
    float64. Computed steps grow rarer along the run, by a plan that is known beforehand.

    The authors forecast features ahead of the last normalisation; here it is the output, so that every network will do.
    Their code penalises the constant polynomial as well, so that weights add up to 0.73 to 0.94 of a run of 50 steps.
    A normalisation hides that, and an output would fade; hence `intercept` "free", whose weights add up to 1.

    Args:
        interval: distance of computed steps after the warm-up; its fraction counts once growth has filled it up.
        growth: added to the interval after each of them. The authors have 0.25, 0.75 (14 of 50 steps) and 3 (10).
        warmup: steps at the beginning that are computed; the authors have 5.
        last: how many at the end are.
        degree: of the polynomials, at most one less than there are computed steps.
        ridge: penalty of the squared coefficients.
        intercept: "free" does not penalise the constant, and spreads the run over the polynomials' interval;
            "penalised" does, and takes every run for one of 50 steps, as the authors' code.
        blend: share of the polynomials; the rest is the line's.
        history: computed steps that are kept, more than the degree; null for all of them.

    Equation:
        y_t = w \, \phi(t) (\Phi^\top \Phi + \lambda I)^{-1} \Phi^\top Y
        + (1 - w) \left( y_k + (t - k) \frac{y_k - y_j}{k - j} \right), \qquad \phi(t) = [T_0, \ldots, T_M](2 t / T - 1)

    Works on:
        Every family.

    Oracle:
        The regression written out; published schedules, and weights computed from the authors' formula.

    Reference:
        "Spectrum", CVPR 2026, arXiv:2603.01623, and the authors' code.
    """

    innermost: ClassVar[float] = 0.5
    interval: float = 2.0
    growth: float = 0.75
    warmup: int = 5
    last: int = 1
    degree: int = 4
    ridge: float = 0.1
    intercept: Literal["free", "penalised"] = "free"
    blend: float = 0.5
    history: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1 <= self.interval < 1e9, "interval", "1 or more")
        require(self, 0 <= self.growth < 1e9, "growth", "0 or more")
        require(self, self.warmup >= 1, "warmup", "1 or more")
        require(self, self.last >= 0, "last", "0 or more")
        require(self, 0 <= self.degree <= 20, "degree", "from 0 to 20")
        require(self, 0 <= self.ridge < 1e9, "ridge", "0 or more")
        require(self, 0 <= self.blend <= 1, "blend", "a share (0.0 to 1.0)")
        kept = self.history is None or self.history > max(self.degree, 1)
        require(self, kept, "history", f"more than degree={self.degree}, and 2 or more")

    def replays(self, network: nn.Module) -> list[Replay]:
        weights = cache(self._weights)
        fill = Weighted(lambda steps, now: weights(tuple(steps), now), self.history or sys.maxsize)
        return [Replay(NETWORK, self._rule, fill, name="spectrum")]

    def _rule(self, state: State) -> Due:
        self.steps = state.steps
        return at(self._schedule(state.steps))

    def _schedule(self, steps: int) -> list[int]:
        computed, interval = list(range(min(self.warmup, steps))), self.interval
        for step in range(self.warmup, steps):
            if (step - computed[-1]) % int(interval) == 0 or step >= steps - self.last:
                computed.append(step)
                interval += self.growth
        return computed

    def _weights(self, steps: Sequence[int], now: int) -> list[float]:
        """Of each computed step's output in the forecast for `now`."""
        penalised = self.intercept == "penalised"
        return forecast(
            *(steps, now, 50 if penalised else self.steps),
            degree=self.degree, ridge=self.ridge, blend=self.blend, penalised=penalised,
        )  # fmt: skip
