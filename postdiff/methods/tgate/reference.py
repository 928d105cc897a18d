"""The formula of TGATE in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from postdiff.methods.formulas import (
    Past,
    Reference,
    Setting,
    alone,
    attentions,
    computed,
    guided_mean,
    looks_at_text,
    text_of,
)

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """A_t = (A^u_(g-1) + A^c_(g-1)) / 2 for t >= g; S_t = S_k, k = n floor(t / n), computed up to the warm-up too."""
    g = int(method.gate * run.steps + 0.5) if isinstance(method.gate, float) else method.gate
    cross = {n: m for n, m in attentions(run.network).items() if looks_at_text(n, m)}
    own = {n[:-1] + "1": run.network.get_submodule(n[:-1] + "1") for n in cross if n.endswith("attn2")}
    early = [t for t in range(g) if t <= method.warmup or t == g - 1 or t % method.self_attention_interval == 0]
    due = [*early, *(t for t in range(g, run.steps) if t % method.fidelity_interval == 0)]
    if method.self_attention_interval == method.fidelity_interval == 1:
        own = {}

    def mean(y: Past, k: int) -> Any:
        return guided_mean(y, k, lambda u, c: (u + c) / 2)

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name in cross:
            k = max([s for s in y[b] if s < g], default=min(y[b]))
            return y[b][t] if t < g else mean(y, k) if k < g else text_of(y, method)[k]
        k = computed(due, y[b])[-1]
        return mean(y, k) if k == g - 1 < t else y[b][k]

    def predictions(t: int, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(found, found[method.text]) if t >= g and len(found) > 1 else found

    return Reference(alone(cross | own), value, predictions)
