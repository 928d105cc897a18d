"""Chains of transformer blocks, and the streams of tokens that they hand on: image, text, and what else there is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from postdiff.engine.errors import UsageError

__all__ = ["MAIN", "stacked_blocks", "stream_names", "streams_of"]

# What the blocks hand on: image tokens, and text tokens where a block gives these out as well.
MAIN = "hidden_states"
STREAMS = (MAIN, "encoder_hidden_states")
STACKS = ("transformer_blocks", "blocks", "single_transformer_blocks")
# Blocks that give out (image, text) in shapes that may be alike; the others of the kind give (text, image).
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


def streams_of(given: dict[str, Any]) -> dict[str, Tensor]:
    """The tokens among a block's arguments, {name: (rows, tokens, channels)}."""
    return {name: value for name, value in given.items() if name.endswith(MAIN) and isinstance(value, Tensor)}


def stream_names(block: nn.Module, tensors: list[Tensor], given: dict[str, Tensor]) -> tuple[str, ...] | None:
    """Which of the streams given to a block each of the tensors that it gives out is; None where that is not clear."""
    if len(tensors) == 1:
        return (MAIN,)
    alike = [[name for name, stream in given.items() if stream.shape == tensor.shape] for tensor in tensors]
    if all(len(names) == 1 for names in alike):
        return tuple(names[0] for names in alike)
    if len(tensors) > 2 or not all(alike):
        return None
    return STREAMS if type(block).__name__ in IMAGE_FIRST else STREAMS[::-1]
