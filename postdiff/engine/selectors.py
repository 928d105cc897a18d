"""Modules by name. A selector that matches nothing raises: a method must never be a silent no-op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from postdiff.engine.errors import UsageError

__all__ = ["cross_attentions", "layer_count", "unet_blocks", "unet_layers"]


def cross_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Text cross-attention modules, {dotted name: module}.

    They are called `attn2` in every diffusers network that has them apart. The flag keeps out the second
    self-attention of video transformers, which bears the same name.

    Raises:
        UsageError: the network has none (SD3 mixes text and image in joint attention; DiT has class labels).
    """
    found = {
        name: module
        for name, module in network.named_modules()
        if name.rpartition(".")[2] == "attn2" and getattr(module, "is_cross_attention", True)
    }
    if not found:
        raise UsageError(
            f"{type(network).__name__} has no separate cross-attention (no module 'attn2'); leave this method out"
        )
    return found


def unet_blocks(network: nn.Module, method: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Down blocks and up blocks of a U-Net, both counted from full resolution inwards.

    Raises:
        UsageError: the network is not a U-Net.
    """
    down, up = getattr(network, "down_blocks", None), getattr(network, "up_blocks", None)
    if down is None or up is None:
        raise UsageError(f"{method} needs a U-Net with skip connections; {type(network).__name__} has no down_blocks")
    return list(cast(nn.ModuleList, down)), list(reversed(cast(nn.ModuleList, up)))


def layer_count(block: nn.Module) -> int:
    """Number of layers (resnets) in one U-Net block."""
    return len(cast(nn.ModuleList, block.resnets))


def unet_layers(block: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Children of one U-Net block that belong to a layer: (dotted name, layer index, module).

    A layer is one resnet with what follows it (attention, temporal convolution, motion module). Resampling
    layers count as the layer after the last.
    """
    depth = layer_count(block)
    for name, children in block.named_children():
        if not isinstance(children, nn.ModuleList):
            continue
        resampling = name in ("downsamplers", "upsamplers")
        for i, child in enumerate(children):
            yield f"{name}.{i}", depth if resampling else i, child
