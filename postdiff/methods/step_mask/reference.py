"""The formula of StepMask in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, computed, filled, whole

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """y_k, x_t + (y_k - x_k), y_k continued by its divided differences, or a forecast; k the last step of the mask."""
    masks = {"medium": [0, 1, 4, 5]}  # 28 steps' at the places 0, 5, 11, 16, 22, 27, nearest to those of six
    due = masks[method.computed] if isinstance(method.computed, str) else method.computed

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        return filled(method.fill, x[b], y[b], computed(due, y[b]), t, run)

    return Reference(whole(run), value)
