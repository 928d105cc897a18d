"""Chains of transformer blocks, and the streams of tokens that they hand on: image, text, and what else there is.

Nothing is told by a class. A chain is made of the lists of blocks that stand in a network, one after the other; a
stream is what a block both takes and gives out.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from postdiff.engine.errors import UsageError
from postdiff.engine.selectors import is_unet

__all__ = ["main_stream", "stacked_blocks", "stream_names", "streams_of", "streams_that_go_on"]

# In names of lists whose blocks do not work on the image's tokens, or on noise before the chain begins.
BESIDE = ("refiner", "text", "txt", "context", "caption", "audio", "control", "vace")


def stacked_blocks(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """{dotted name: block} of a transformer, in order of execution.

    A list of modules with attention inside them is taken for blocks of the chain, unless its name tells that it works
    on something beside the image. The order is that in which a network's constructor makes the lists.

    Args:
        network: a denoiser.
        method: who asks, for messages.

    Raises:
        UsageError: not a transformer, one with fewer than two blocks, or one whose blocks are not all different.
    """
    found: dict[str, nn.Module] = {}
    for name, stack in () if is_unet(network) else network.named_children():
        if isinstance(stack, nn.ModuleList) and not any(part in name for part in BESIDE):
            # Not `children()`, which gives a block that stands in two places once.
            found |= {f"{name}.{i}": block for i, block in enumerate(stack) if _attends(block)}
    if len(found) < 2:
        raise UsageError(
            f"{method} needs a transformer with a chain of blocks; {type(network).__name__} has none. DeepCache and "
            "encoder_propagation serve U-Nets"
        )
    if len(set(found.values())) < len(found):
        raise UsageError(f"{method}: one block stands in several places of {type(network).__name__}; leave it out")
    return found


def _attends(block: nn.Module) -> bool:
    return any("att" in name for name, _ in block.named_modules())


def main_stream(block: nn.Module) -> str:
    """Name of a block's first argument: the image's tokens, or those of image and text in one stream."""
    return next(iter(inspect.signature(block.forward).parameters))


def streams_of(main: str, given: dict[str, Any]) -> dict[str, Tensor]:
    """The tokens among a block's arguments, {name: (rows, tokens, channels)}, the main stream first.

    What else is of that form, such as shifts for every token, is among them: only what a block gives out again counts.
    """
    like = given[main]
    rows, dimensions = len(like), like.ndim
    return {main: like} | {
        name: value
        for name, value in given.items()
        if isinstance(value, Tensor) and value.ndim == dimensions and len(value) == rows and value.is_floating_point()
    }


def stream_names(main: str, tensors: list[Tensor], given: dict[str, Tensor]) -> tuple[str, ...] | None:
    """Which of the streams given to a block each of the tensors that it gives out is; None where shapes do not tell."""
    if len(tensors) == 1:
        return (main,)
    alike = [[name for name, stream in given.items() if stream.shape == tensor.shape] for tensor in tensors]
    names = tuple(names[0] for names in alike if len(names) == 1)
    return names if len(names) == len(tensors) == len(set(names)) else None


def streams_that_go_on(tensors: list[Tensor], following: dict[str, Tensor]) -> tuple[str, ...] | None:
    """The same from what the next block is given, which is those very tensors; all but one of them will do."""
    names = [next((name for name, stream in following.items() if stream is tensor), None) for tensor in tensors]
    if names.count(None) == 1:
        place = names.index(None)  # something was added to it on the way
        left = [n for n, stream in following.items() if n not in names and stream.shape == tensors[place].shape]
        names[place] = left[0] if len(left) == 1 else None
    return None if None in names else tuple(name for name in names if name is not None)
