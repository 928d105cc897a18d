"""The formula of TaylorSeer in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Reference, Setting, alone, attention_and_ff, continued

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """F_(k+j) = sum_i F_k^(i) j^i / i!, F^(i+1) the divided difference of the last two F^(i)."""
    due = {*range(method.warmup), *range(method.warmup - 1, run.steps, method.interval)}
    return continued(alone(attention_and_ff(run.network)), due, method.order)
