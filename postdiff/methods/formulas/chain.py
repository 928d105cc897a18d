"""A chain of transformer blocks: x is what its first is given, y what its last gives."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from postdiff.methods.formulas.parts import series

__all__ = ["blocks_of", "extrapolated", "residual", "streams"]


def blocks_of(network: nn.Module) -> list[Any]:
    stacks = ("transformer_blocks", "blocks", "single_transformer_blocks")
    return [block for stack in stacks for block in getattr(network, stack, ())]


def streams(block: nn.Module, output: Any) -> tuple[Tensor, Tensor | None]:
    """(image, text) in what a transformer block gives out, or in what a U-Net's stack of them does."""
    if isinstance(output, Tensor) or len(output) == 1:
        return (output if isinstance(output, Tensor) else output[0]), None
    image, text = output if type(block).__name__ == "CogView4TransformerBlock" else output[::-1]
    return image, text


def residual(block: nn.Module, x: dict[int, Any], y: dict[int, Any], k: int, t: int) -> Any:
    """x_t + R_k, R_k = y_k - x_k, in both streams."""
    return extrapolated(block, x, y, [k], t, 0)


def extrapolated(block: nn.Module, x: dict[int, Any], y: dict[int, Any], ks: list[int], t: int, order: int) -> Any:
    """x_t + R, R the series of y_k - x_k over the computed steps, in both streams."""

    def added(stream: int) -> Any:
        if streams(block, y[ks[-1]])[stream] is None:
            return None
        return x[t][stream] + series([streams(block, y[k])[stream] - x[k][stream] for k in ks], ks, t, order)

    image, text = added(0), added(1)
    if isinstance(y[ks[-1]], Tensor):
        return image
    both = (image, text) if streams(block, y[ks[-1]])[0] is y[ks[-1]][0] else (text, image)
    return both if len(y[ks[-1]]) == 2 else both[:1]
