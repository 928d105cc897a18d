"""The formula of BlockCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Reference, Setting, alone, hold

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """C_t = C_k while the calibrated changes since k add up to at most delta; one number stands for all of them."""
    found = {n: m for n, m in run.network.named_modules() if type(m).__name__ == "Transformer2DModel"}
    due, total = [0], 0.0
    for t in range(1, run.steps):
        total += method.changes
        if total > method.threshold:
            due, total = [*due, t], 0.0
    return Reference(alone(found), hold(due))
