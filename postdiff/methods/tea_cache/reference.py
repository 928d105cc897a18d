"""The formula of TeaCache in the symbols of its paper, without speed and without state."""

from __future__ import annotations

from typing import Any

from postdiff.methods.formulas import Past, Reference, Setting, blocks_of, relative, residual

__all__ = ["reference"]


def reference(method: Any, run: Setting) -> Reference:
    """x_t + R_k while sum_i p(|m_i - m_(i-1)| / |m_(i-1)|) < delta, m what the first attention is given."""
    blocks, m = blocks_of(run.network), {}
    k: dict[str, int] = {}
    total: dict[str, float] = {}
    attention = getattr(blocks[0], "attn1", None) or blocks[0].attn
    polynomial = [1.0, 0.0] if method.polynomial == "identity" else method.polynomial

    def value(name: str, t: int, b: str, x: Past, y: Past) -> Any:
        if name == "attention":
            m[b, t] = x[b][t][0]
            return y[b][t]
        if b in k and k[b] in y[b]:
            before = max(s for s in y[b] if s < t)
            change = relative(m[b, t], m[b, before])
            total[b] += sum(c * change**power for power, c in enumerate(reversed(polynomial)))
            if total[b] < method.threshold and t + 1 < run.steps:
                return residual(blocks[-1], x[b], y[b], k[b], t)
        k[b], total[b] = t, 0.0
        return y[b][t]

    return Reference({"attention": (attention, attention), "chain": (blocks[0], blocks[-1])}, value)
