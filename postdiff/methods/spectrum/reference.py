"""The formula of Spectrum in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, computed, forecast, whole

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """w phi(t) C + (1 - w) (y_k + (t - k) (y_k - y_j) / (k - j)), C the ridge regression of y on Chebyshev's T_m."""
    due: list[int] = []
    window, gap = method.interval, 1
    for t in range(run.steps):
        if t < method.warmup or gap % int(window) == 0 or t >= run.steps - method.last:
            window += method.growth * (t >= method.warmup)
            due, gap = [*due, t], 1
        else:
            gap += 1

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        ks, free = computed(due, y[b])[-(method.history or run.steps) :], method.intercept == "free"
        if ks[-1] == t:
            return y[b][t]
        past = [(k, y[b][k]) for k in ks]
        return forecast(past, t, run.steps if free else 50, method.degree, method.ridge, method.blend, free)

    return Reference(whole(run), value)
