"""The blocks of a denoiser whose outputs are looked at, and those outputs as maps, whatever the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from postdiff.engine.errors import UsageError
from postdiff.engine.halves import halves_of
from postdiff.engine.intercept import intercept
from postdiff.engine.rows import rows_of_step
from postdiff.engine.state import State

__all__ = ["Block", "as_maps", "blocks_of", "main_output", "tensors_in", "watch"]

Part = Literal["encoder", "middle", "decoder"]


@dataclass(frozen=True)
class Block:
    """A block of a denoiser.

    Attributes:
        label: "E1", "E2", ... down the encoder, "B" for the middle block, "D1", "D2", ... up the decoder (by order of
            execution, as in Faster Diffusion, Fig. 3); "1", "2", ... for the blocks of a transformer.
        name: its dotted name.
        part: which part of the network it is in.
        module: itself.
    """

    label: str
    name: str
    part: Part
    module: nn.Module


def blocks_of(network: nn.Module, method: str, split: int | None = None) -> list[Block]:
    """The blocks of a network, in order of execution.

    A U-Net has down blocks (each with its downsampler), a middle block and up blocks. A transformer's blocks are cut
    into encoder and decoder where encoder propagation cuts them (18 of 28); the blocks of transformers that it
    cannot be used on (SD3, Sana, Hunyuan-DiT) are cut by the same share.

    Args:
        network: the denoiser.
        method: who asks, for messages.
        split: number of blocks in a transformer's encoder.

    Raises:
        UsageError: a network with neither.
    """
    if hasattr(network, "down_blocks") and hasattr(network, "up_blocks"):
        halves = halves_of(network, method, split)
        down = [(name, module) for name, module in halves.encoder.items() if name.startswith("down_blocks.")]
        middle = [("B", name, module) for name, module in halves.encoder.items() if name == "mid_block"]
        return [
            *(Block(f"E{i}", name, "encoder", module) for i, (name, module) in enumerate(down, 1)),
            *(Block(label, name, "middle", module) for label, name, module in middle),
            *(Block(f"D{i}", name, "decoder", module) for i, (name, module) in enumerate(halves.decoder.items(), 1)),
        ]
    for attribute in ("transformer_blocks", "blocks"):
        blocks = list(cast(nn.ModuleList, getattr(network, attribute, ())))
        if blocks:
            try:
                first = len(halves_of(network, method, split).encoder)
            except UsageError:
                if split is not None:
                    raise
                first = max(1, round(len(blocks) * 18 / 28))
            return [
                Block(str(i + 1), f"{attribute}.{i}", "encoder" if i < first else "decoder", module)
                for i, module in enumerate(blocks)
            ]
    raise UsageError(f"{method} knows no blocks of {type(network).__name__}; use a U-Net or a transformer")


def watch(
    module: nn.Module, state: State, pick: Callable[[Any], list[Tensor]], see: Callable[[int, list[Tensor]], None]
) -> AbstractContextManager[None]:
    """Show `see` what a block gives out at every step; the block and its output stay as they are.

    Args:
        module: the block.
        state: of the run.
        pick: the tensors wanted of the output, each with whole rows or as tokens.
        see: called with the step and the tensors, each (branches, samples, frames, C, h, w) in float32, its own
            copy. A call that serves several steps is shown as so many.
    """

    def around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        parts, span = len(state.branches), state.span
        tensors = [tensor.detach() for tensor in pick(output)]
        for i in range(span):
            see(state.index + i, [as_maps(rows_of_step(tensor, parts, span, i), state) for tensor in tensors])
        return output

    return intercept(module, "forward", around)


def tensors_in(output: Any) -> list[Tensor]:
    """Every tensor of a block's output once, in order: a down block gives its last skip connection twice."""
    if isinstance(output, Tensor):
        return [output]
    found = [tensor for item in output or () for tensor in tensors_in(item)]
    return [tensor for i, tensor in enumerate(found) if all(tensor is not other for other in found[:i])]


def main_output(output: Any) -> list[Tensor]:
    """What a block hands on to the next: the first tensor of a U-Net block, the image tokens of a transformer's.

    Blocks of SD3 give text tokens first, image tokens last.
    """
    tensors = tensors_in(output)
    return tensors[-1:] if tensors[0].ndim == 3 else tensors[:1]


def as_maps(tensor: Tensor, state: State) -> Tensor:
    """The output of one step, (rows, C, h, w) or (rows, tokens, C), as (branches, samples, frames, C, h, w).

    Frames are 1 but for videos, whose blocks work on rows of samples x frames. Tokens are laid out on the grid of
    the latents' patches.

    Raises:
        UsageError: the tokens make no grid of the latents' proportions.
    """
    if tensor.ndim == 3:
        height, width = state.size
        patch = round((height * width / tensor.shape[1]) ** 0.5)
        if patch == 0 or -(-height // patch) * -(-width // patch) != tensor.shape[1]:
            raise UsageError(
                f"{tensor.shape[1]} tokens make no grid over latents of {height}x{width}; watch no block of it"
            )
        tensor = tensor.transpose(1, 2).unflatten(2, (-(-height // patch), -(-width // patch)))
    rows = tensor.unflatten(0, (len(state.branches), state.samples, -1))
    return rows.to(torch.float32, copy=True)
