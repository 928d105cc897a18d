"""Attention and feed-forward modules of any diffusers network, by what attends to what."""

from __future__ import annotations

from typing import Literal

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.selectors import is_cross

__all__ = ["Kind", "attentions", "attentions_and_feed_forwards", "feed_forwards", "first_attention"]

Kind = Literal["spatial", "temporal", "cross"]
# Parents of attention along time in video networks: TextToVideo's and AnimateDiff's.
TEMPORAL = ("transformer_in", "temp_attentions", "motion_modules", "temporal_transformer_blocks")
NAMES = ("attn", "attention")  # what a module for attention is called in the end, a number aside
QUERIES = ("to_q", "to_query")  # what makes its queries
WITH_FEED_FORWARD = "to_qkv_mlp_proj"  # the same, and a feed-forward part's input
FEED_FORWARDS = ("ff", "ff_context", "ffn", "feed_forward", "img_mlp", "txt_mlp", "ff_i", "ff_t", "audio_ff")


def attentions(network: nn.Module, method: str) -> dict[str, tuple[Kind, nn.Module]]:
    """{dotted name: (kind, module)} of all attention modules inside transformer blocks.

    "cross" looks at text or sound, "temporal" at other frames, "spatial" at other places of the image (and, in joint
    attention, at text as well).

    Args:
        network: a denoiser.
        method: who asks, for messages.

    Raises:
        UsageError: the network has none.
    """
    found: dict[str, tuple[Kind, nn.Module]] = {}
    for name, module in network.named_modules():
        if not _is_attention(name, module):
            continue
        if any(part in TEMPORAL for part in name.split(".")):
            found[name] = ("temporal", module)
        else:
            found[name] = ("cross" if is_cross(name, module) or "_to_" in name else "spatial", module)
    if not found:
        raise UsageError(f"{method} needs transformer blocks; {type(network).__name__} has no module 'attn1' or 'attn'")
    return found


def _is_attention(name: str, module: nn.Module) -> bool:
    own = name.rpartition(".")[2].rstrip("12")
    return own.endswith(NAMES) and any(hasattr(module, queries) for queries in QUERIES)


def first_attention(block: nn.Module) -> nn.Module | None:
    """The attention that a block runs first, None if it has none."""
    named = ((name.rpartition(".")[2].rstrip("12"), module) for name, module in block.named_modules())
    return next((module for own, module in named if own.endswith(NAMES)), None)


def feed_forwards(network: nn.Module) -> dict[str, nn.Module]:
    """{dotted name: module} of the feed-forward parts of transformer blocks that are called once a step."""
    found = {}
    for name, module in network.named_modules():
        parent, _, own = name.rpartition(".")
        if own in FEED_FORWARDS and not _shared(network.get_submodule(parent)):
            found[name] = module
    return found


def _shared(block: nn.Module) -> bool:
    """Whether a block sends image and text through one feed-forward module, one after the other."""
    return getattr(block, "norm2_context", None) is not None and getattr(block, "ff_context", None) is None


def attentions_and_feed_forwards(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """Both, {dotted name: module}: all that a transformer block computes beside modulation, norms and sums.

    Raises:
        UsageError: the network has no attention inside transformer blocks.
    """
    found = {name: module for name, (_, module) in attentions(network, method).items()}
    both = {name: module for name, module in network.named_modules() if hasattr(module, WITH_FEED_FORWARD)}
    return found | both | feed_forwards(network)
