"""Modules by name. A selector that matches nothing raises: a method must never be a silent no-op."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn

from postdiff.engine.errors import UsageError

__all__ = [
    "TokenBlock",
    "cross_attentions",
    "is_cross",
    "is_unet",
    "layer_count",
    "plain_block",
    "refuse_other_places",
    "self_attentions",
    "spatial_transformers",
    "token_blocks",
    "unet_blocks",
    "unet_layers",
    "with_all_inside",
]

Size = tuple[int, int]


def is_cross(name: str, attention: nn.Module) -> bool:
    """Whether an attention module looks at text.

    A flag keeps out the second self-attention of video transformers, which bears the same name, and takes in a first
    attention that looks at text as well (Stable Diffusion's x4 upscaler).
    """
    own = name.rpartition(".")[2]
    return bool(getattr(attention, "is_cross_attention", own.endswith("attn2") or own == "cross_attention"))


def cross_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Text cross-attention modules, {dotted name: module}: one of two attentions that a block has side by side.

    Raises:
        UsageError: the network has none (SD3 mixes text and image in joint attention; DiT has class labels).
    """
    found = {
        name: module
        for name, module in network.named_modules()
        if name.endswith(("attn1", "attn2", "cross_attention")) and is_cross(name, module)
    }
    if not found:
        raise UsageError(
            f"{type(network).__name__} has no separate cross-attention (no module 'attn2'); leave this method out"
        )
    return found


def self_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Self-attention modules that stand beside a text cross-attention, {dotted name: module}.

    That neighbour tells attention among image tokens from attention along time, which video networks call the same.

    Raises:
        UsageError: the network has no separate cross-attention.
    """
    crossed = cross_attentions(network)
    pairs = (("attn2", "attn1"), ("cross_attention", "self_attention"))
    names = [name.removesuffix(end) + other for name in crossed for end, other in pairs if name.endswith(end)]
    return {name: network.get_submodule(name) for name in names if name not in crossed}


@dataclass(frozen=True)
class TokenBlock:
    """A transformer block whose tokens are a grid over the latents.

    Attributes:
        module: has children `attn1` (self-attention), `attn2` (text, or None) and `ff`.
        level: 0 where the network's token grid is finest; each level below halves the sides, rounding up.
        patch: side of a token of level 0 in latent pixels.
    """

    module: nn.Module
    level: int
    patch: int

    def grid(self, size: Size) -> Size:
        """Tokens (down, across) at this block for latents of `size`."""
        height, width = (-(-(side // self.patch) // 2**self.level) for side in size)
        return height, width


def plain_block(module: nn.Module) -> bool:
    """Whether it is a block of self-attention, an attention beside it, and a feed-forward part, on a plain grid.

    Its forward is told nothing of places: it does not rotate queries by position, nor count frames.
    """
    if not all(hasattr(module, name) for name in ("attn1", "attn2", "ff")):
        return False
    told = inspect.signature(module.forward).parameters
    return not any(part in name for name in told for part in ("rotary", "rope", "height", "frames"))


def token_blocks(network: nn.Module, method: str) -> dict[str, TokenBlock]:
    """Transformer blocks with self-attention among image tokens, {dotted name: block}.

    U-Nets, DiT and PixArt have such. Blocks along time are told by a second self-attention under the name `attn2`.
    Other transformer blocks rotate their queries by position (Hunyuan-DiT), mix in text tokens (SD3) or have no
    quadratic attention (Sana).

    Raises:
        UsageError: the network has none.
    """
    depth = len(cast(nn.ModuleList, getattr(network, "down_blocks", ())))
    patch = getattr(network.config, "patch_size", None) or 1
    found: dict[str, TokenBlock] = {}
    for name, module in network.named_modules():
        if not plain_block(module) or getattr(module.attn1, "is_cross_attention", False):
            continue
        if module.attn2 is None or getattr(module.attn2, "is_cross_attention", False):
            found[name] = TokenBlock(module, _level(name, depth), patch)
    if not found:
        raise UsageError(
            f"{method} needs transformer blocks on a plain grid of image tokens; {type(network).__name__} has none"
        )
    return found


def _level(name: str, depth: int) -> int:
    part, *rest = name.split(".")
    if part == "down_blocks":
        return int(rest[0])
    if part == "up_blocks":
        return depth - 1 - int(rest[0])
    return depth - 1 if part == "mid_block" else 0


def is_unet(network: nn.Module) -> bool:
    """Whether it has down blocks and up blocks."""
    return all(getattr(network, name, None) is not None for name in ("down_blocks", "up_blocks"))


def spatial_transformers(network: nn.Module, method: str) -> dict[str, nn.Module]:
    """The stacks of transformer blocks that stand between the resnets of a U-Net, {dotted name: module}.

    Raises:
        UsageError: the network has none.
    """
    blocks = network.named_modules() if is_unet(network) else ()
    found = {name: module for name, module in blocks if name.split(".")[-2:-1] == ["attentions"] and _stacks(module)}
    if not found:
        raise UsageError(
            f"{method} needs a U-Net with spatial transformers; {type(network).__name__} has none. FirstBlockCache and "
            "TaylorSeer serve transformers"
        )
    return found


def _stacks(module: nn.Module) -> bool:
    """Whether it is a stack of transformer blocks, and has none along time."""
    return hasattr(module, "transformer_blocks") and not hasattr(module, "temporal_transformer_blocks")


def unet_blocks(network: nn.Module, method: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Down blocks and up blocks of a U-Net, both counted from full resolution inwards.

    Raises:
        UsageError: the network is not a U-Net.
    """
    if not is_unet(network):
        raise UsageError(f"{method} needs a U-Net with skip connections; {type(network).__name__} has no down_blocks")
    down, up = (cast(nn.ModuleList, getattr(network, name)) for name in ("down_blocks", "up_blocks"))
    return list(down), list(reversed(up))


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


def with_all_inside(modules: dict[str, nn.Module]) -> list[str]:
    """Names of modules and of all modules inside them: what is left out with them, no other method may act on."""
    return [f"{name}.{inner}".rstrip(".") for name, module in modules.items() for inner, _ in module.named_modules()]


def refuse_other_places(modules: dict[str, nn.Module], network: nn.Module, method: str) -> None:
    """For methods that leave modules out because of where they stand.

    Raises:
        UsageError: one of the modules, {dotted name: module}, stands outside of them in the network, too.
    """
    left_out = set(modules.values())
    for name, module in network.named_modules(remove_duplicate=False):
        if module in left_out and not any(name == own or name.startswith(f"{own}.") for own in modules):
            raise UsageError(
                f"{method}: '{name}' of {type(network).__name__} stands in several places, and is to be left out in "
                "some of them only; leave the method out"
            )
