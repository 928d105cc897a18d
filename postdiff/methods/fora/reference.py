"""The formula of FORA in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Reference, Setting, alone, attention_and_ff, hold

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """F_t = F_k, k = N floor(t / N)."""
    return Reference(alone(attention_and_ff(run.network)), hold(range(0, run.steps, method.interval)))
