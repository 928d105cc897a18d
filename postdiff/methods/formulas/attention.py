"""Attention layers by their names in a network, and what guidance leaves of two branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from postdiff.methods.formulas.run import Past, tensorwise

__all__ = ["attention_and_ff", "attentions", "guided_mean", "looks_at_text", "text_of"]


def attentions(network: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in network.named_modules() if n.split(".")[-1] in ("attn", "attn1", "attn2")}


def looks_at_text(name: str, module: nn.Module) -> bool:
    return bool(getattr(module, "is_cross_attention", name.endswith("attn2")))


def attention_and_ff(network: nn.Module) -> dict[str, nn.Module]:
    """CogView4 sends image and text through one feed-forward, one after the other; that one is left alone."""
    names = ("ff", "ff_context", "ffn", "img_mlp", "txt_mlp")
    found = {n: m for n, m in network.named_modules() if n.split(".")[-1] in names}
    return attentions(network) | ({} if "CogView4" in type(network).__name__ else found)


def guided_mean(y: Past, k: int, mixed: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Of both branches at step k, or what there is."""
    there = [y[b][k] for b in ("uncond", "cond") if k in y[b]]
    return tensorwise(mixed, *there) if len(there) == 2 else there[0]


def text_of(y: Past, method: Any) -> dict[int, Any]:
    """What the branch that goes on after the gate has computed; a run without guidance has one branch."""
    return y.get(method.text) or y["cond"]
