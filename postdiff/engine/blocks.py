"""Chains of transformer blocks, and the two streams of tokens that they hand on: image and text."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from postdiff.engine.errors import UsageError

__all__ = ["STREAMS", "main_stream", "stacked_blocks", "stream_names"]

# What the blocks hand on: image tokens, and text tokens where a block gives these out as well.
STREAMS = ("hidden_states", "encoder_hidden_states")
STACKS = ("transformer_blocks", "blocks", "single_transformer_blocks")
# Blocks that give out (image, text); the other blocks with two outputs give (text, image).
IMAGE_FIRST = ("CogView4TransformerBlock", "CogVideoXBlock")


def stacked_blocks(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """{dotted name: block} of a transformer, in order of execution.

    Args:
        network: a denoiser.
        method: who asks, for messages.

    Raises:
        UsageError: not a transformer, one with fewer than two blocks, or one whose blocks are not all different.
    """
    stacks = [name for name in STACKS if isinstance(getattr(network, name, None), nn.ModuleList)]
    # Not `children()`, which gives a block that stands in two places once.
    found = {f"{name}.{i}": block for name in stacks for i, block in enumerate(getattr(network, name))}
    if len(found) < 2:
        raise UsageError(
            f"{method} needs a transformer with a chain of blocks; {type(network).__name__} has none. DeepCache and "
            "encoder_propagation serve U-Nets"
        )
    if len(set(found.values())) < len(found):
        raise UsageError(f"{method}: one block stands in several places of {type(network).__name__}; leave it out")
    return found


def stream_names(block: nn.Module, tensors: list[Tensor]) -> tuple[str, ...]:
    """Which stream each of the tensors in a block's output is."""
    if len(tensors) == 1:
        return STREAMS[:1]
    return STREAMS if type(block).__name__ in IMAGE_FIRST else STREAMS[::-1]


def main_stream(block: nn.Module, output: Any) -> Tensor:
    """The image tokens in a block's output."""
    if isinstance(output, Tensor):
        return output
    found: Tensor = output[0 if type(block).__name__ in IMAGE_FIRST else -1]
    return found
