"""The formula of CrossAttentionCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from postdiff.methods.formulas import Past, Reference, Setting, alone, attentions, guided_mean, looks_at_text, text_of

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """CA(x_t, text) for t < g, A_(g-1) after it: the conditional one, the mean, or the guided one."""
    gate = int(method.gate * run.steps + 0.5) if isinstance(method.gate, float) else method.gate
    mixed = {
        "cond": lambda u, c: c,
        "ave": lambda u, c: (u + c) / 2,
        "cfg": lambda u, c: u + run.scale * (c - u),
    }[method.fill]
    found = {n: m for n, m in attentions(run.network).items() if looks_at_text(n, m)}
    late = gate + (method.fill_step == "first_unguided")

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        k = max([s for s in y[b] if s < late], default=min(y[b]))  # before the gate, or the first of a new size
        if t < late:
            return y[b][t]
        if not method.cutoff:
            return y[b][k]
        return guided_mean(y, k, mixed) if k < gate else text_of(y, method)[k]

    def predictions(t: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(found, found[method.text]) if t >= gate and method.cutoff and len(found) > 1 else found

    return Reference(alone(found), value, predictions)
