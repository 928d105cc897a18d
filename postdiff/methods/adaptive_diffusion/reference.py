"""The formula of AdaptiveDiffusion in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, filled, magnitude, whole

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """What stands in while |(D_(t-1) + D_(t-3)) / 2 - D_(t-2)| <= delta D_(t-2), D_i = |x_(i+1) - x_i| at a step."""
    changes: list[float] = []
    ks: list[int] = []
    skips: list[int] = []

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if t not in (*ks[-1:], *skips[-1:]):
            skip = ks[-1:] != [] and ks[-1] in y["cond"] and method.warmup <= t < run.steps - method.last
            if skip:
                first, second, third = changes[t - 3 : t]
                skip = abs((first + third) / 2 - second) <= method.threshold * second
                skip = skip and len([s for s in skips if s > ks[-1]]) < method.most
            (skips if skip else ks).append(t)
        return filled(method.fill, x[b], y[b], ks, t, run)

    return Reference(whole(run), value, moved=lambda x, after: changes.append(magnitude(after - x)))
