"""The formula of StepMask in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, added, computed, continued, whole

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """y_k, x_t + (y_k - x_k), or y_k continued by its first divided differences; k the last step of the mask."""
    masks = {"medium": [0, 1, 4, 5]}  # 28 steps' at the places 0, 5, 11, 16, 22, 27, nearest to those of six
    due = masks[method.computed] if isinstance(method.computed, str) else method.computed
    if method.fill in ("linear", "quadratic"):
        return continued(whole(run), due, ("linear", "quadratic").index(method.fill) + 1)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        k = computed(due, y[b])[-1]
        return added(x[b], y[b], k, t) if method.fill == "residual" and k != t else y[b][k]

    return Reference(whole(run), value)
