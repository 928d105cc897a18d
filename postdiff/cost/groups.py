"""Which group of modules work belongs to: the rows of a table "where do the MACs go"."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["GROUPS", "grouped"]

GROUPS = ("resnets", "self-attention", "cross-attention", "feed-forward", "other")

# Where a module does not say itself whether it looks at text.
_LOOKS_AT_TEXT = {"attn1": False, "attn2": True, "self_attn": False, "SelfAttention": False}
_FEED_FORWARD = ("ff", "ff_context", "mlp", "DenseReluDense")


def grouped(owner: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules that begin a group, with its name. What runs in none of them is "other".

    Names are those of diffusers and transformers. Attention over image and text tokens together (SD3) is
    self-attention. What a method adds around a module, for instance ToMe's matching of tokens, is "other".
    """
    for path, module in owner.named_modules():
        name = path.rpartition(".")[2]
        looks_at_text = getattr(module, "is_cross_attention", _LOOKS_AT_TEXT.get(name))
        if looks_at_text is not None:
            yield module, "cross-attention" if looks_at_text else "self-attention"
        elif name in _FEED_FORWARD:
            yield module, "feed-forward"
        elif type(module).__name__.startswith("Resnet"):
            yield module, "resnets"
