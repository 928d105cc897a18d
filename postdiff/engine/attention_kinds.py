"""Attention and feed-forward modules of any diffusers network, by what attends to what."""

from __future__ import annotations

from typing import Literal

from torch import nn

from postdiff.engine.errors import UsageError

__all__ = ["Kind", "attentions", "attentions_and_feed_forwards", "feed_forwards"]

Kind = Literal["spatial", "temporal", "cross"]
# Parents of attention along time in video networks: TextToVideo's and AnimateDiff's.
TEMPORAL = ("transformer_in", "temp_attentions", "motion_modules", "temporal_transformer_blocks")
FEED_FORWARDS = ("ff", "ff_context", "ffn", "img_mlp", "txt_mlp")
# Blocks that send image and text through one feed-forward module, one after the other.
SHARED = ("CogView4TransformerBlock",)


def attentions(network: nn.Module, method: str) -> dict[str, tuple[Kind, nn.Module]]:
    """{dotted name: (kind, module)} of all attention modules inside transformer blocks.

    "cross" looks at text, "temporal" at other frames, "spatial" at other places of the image (and, in joint
    attention, at text as well).

    Args:
        network: a denoiser.
        method: who asks, for messages.

    Raises:
        UsageError: the network has none.
    """
    found: dict[str, tuple[Kind, nn.Module]] = {}
    for name, module in network.named_modules():
        own = name.rpartition(".")[2]
        if own not in ("attn", "attn1", "attn2") or not hasattr(module, "to_q"):
            continue
        if any(part in TEMPORAL for part in name.split(".")):
            found[name] = ("temporal", module)
        elif getattr(module, "is_cross_attention", own == "attn2"):
            found[name] = ("cross", module)
        else:
            found[name] = ("spatial", module)
    if not found:
        raise UsageError(f"{method} needs transformer blocks; {type(network).__name__} has no module 'attn1' or 'attn'")
    return found


def feed_forwards(network: nn.Module) -> dict[str, nn.Module]:
    """{dotted name: module} of the feed-forward parts of transformer blocks that are called once a step."""
    found = {}
    for name, module in network.named_modules():
        parent, _, own = name.rpartition(".")
        if own in FEED_FORWARDS and type(network.get_submodule(parent)).__name__ not in SHARED:
            found[name] = module
    return found


def attentions_and_feed_forwards(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """Both, {dotted name: module}: all that a transformer block computes beside modulation, norms and sums.

    Raises:
        UsageError: the network has no attention inside transformer blocks.
    """
    found = attentions(network, method)
    return {**{name: module for name, (_, module) in found.items()}, **feed_forwards(network)}
