"""The two halves of a denoiser: an encoder whose features may be kept, and a decoder that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.selectors import is_unet, plain_block, unet_blocks

__all__ = ["EncoderDecoderSplit", "halves_of"]

# Share of DiT-XL/2's 28 blocks that its features make an encoder (Faster Diffusion, Fig. 11).
TRANSFORMER_SHARE = 18 / 28


@dataclass(frozen=True)
class EncoderDecoderSplit:
    """Modules by dotted name, in order of execution.

    Attributes:
        encoder: in a U-Net `conv_in`, the down blocks and the middle block; in a transformer the first blocks.
        decoder: up blocks, or the other blocks.
        skips: whether the decoder reads the output of every encoder module (U-Net), or of the last one alone.
    """

    encoder: dict[str, nn.Module]
    decoder: dict[str, nn.Module]
    skips: bool


def halves_of(network: nn.Module, method: str, split: int | None = None) -> EncoderDecoderSplit:
    """Split a network.

    Args:
        network: a U-Net, or a transformer made of plain blocks (DiT, PixArt).
        method: who asks, for messages.
        split: number of blocks in a transformer's encoder; 18 of 28 if omitted. A U-Net splits itself.

    Raises:
        UsageError: a network without two halves, a split that leaves one empty, or a block in several places.
    """
    if is_unet(network):
        if split is not None:
            raise UsageError(f"{method}: split={split} is for transformers; {type(network).__name__} splits itself")
        return _unet(network, method)
    blocks = cast(nn.ModuleList, getattr(network, "transformer_blocks", ()))
    if not len(blocks) or not all(plain_block(block) for block in blocks):
        raise UsageError(
            f"{method} needs an encoder and a decoder: a U-Net, or a transformer of plain blocks (DiT, PixArt); "
            f"{type(network).__name__} is neither"
        )
    depth = len(blocks)
    first = max(1, round(depth * TRANSFORMER_SHARE)) if split is None else split
    if not 0 < first < depth:
        raise UsageError(f"{method}: split={first} is outside the {depth} blocks; use 1 to {depth - 1}")
    if len(set(blocks)) < depth:
        raise UsageError(f"{method}: one block stands in several places of {type(network).__name__}; leave it out")
    named = {f"transformer_blocks.{i}": block for i, block in enumerate(blocks)}
    return EncoderDecoderSplit(dict(list(named.items())[:first]), dict(list(named.items())[first:]), skips=False)


def _unet(network: nn.Module, method: str) -> EncoderDecoderSplit:
    down, up = unet_blocks(network, method)
    # Video U-Nets look along time right after the first convolution; some networks have no middle block.
    optional = {name: getattr(network, name, None) for name in ("transformer_in", "mid_block")}
    names = ["conv_in", "transformer_in", *(f"down_blocks.{i}" for i in range(len(down))), "mid_block"]
    encoder = {name: network.get_submodule(name) for name in names if optional.get(name, network) is not None}
    # Counted from full resolution inwards there, executed from the inside out.
    decoder = {f"up_blocks.{i}": block for i, block in enumerate(reversed(up))}
    return EncoderDecoderSplit(encoder, decoder, skips=True)
