"""ToDo: self-attention whose keys and values come from a thinned-out token grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize
from postdiff.engine.intercept import intercept
from postdiff.engine.selectors import TokenBlock, token_blocks, unet_blocks
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require

__all__ = ["ToDo"]


@dataclass
class ToDo(Method):
    r"""softmax(Q(x) K(y)^T / sqrt(d)) V(y) with y = every d-th token of x down and across; queries keep all of x.

    A U-Net only, since its outer levels hold neighbours that hardly differ. In a DiT or PixArt a token is a patch
    already and there is one level, so the paper's rule has nothing to say there. The authors' code also goes over
    to ToMe for the last fifth of the timesteps unless told not to; here tokens are thinned out in all of them.

    Args:
        factors: d of the level at full latent size, at half, and so on; levels past the list are left alone.
            The first level of SDXL has no attention, so its list begins with 1. The authors show Stable Diffusion
            V1.5 with [2] at 1024 pixels, [3] at 1536 and [4] at 2048.

    Equation:
        \mathrm{softmax} \left( Q(x) \, K(y)^{\top} / \sqrt{d} \right) V(y),
        \qquad y = x \text{ thinned out by } f \text{ a side}

    Works on:
        U-Nets.

    Oracle:
        The formula written out.

    Reference:
        Smith, Saxena, Saha, "ToDo: Token Downsampling for Efficient Generation of High-Resolution Images",
        2024, arXiv:2402.13573, Sec. 3.
    """

    factors: list[int] = field(default_factory=lambda: [2, 1])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, all(factor >= 1 for factor in self.factors), "factors", "1 or more each")

    def claims(self, network: nn.Module) -> list[str]:
        return [f"{name}.attn1" for name, _ in self._blocks(network)]

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        for _, block in self._blocks(network):
            yield intercept(block.module.get_submodule("attn1"), "forward", self._around(block, state))

    def _around(self, block: TokenBlock, state: State) -> Callable[..., Tensor]:
        factor = self.factors[block.level]

        def call(forward: Callable[..., Tensor], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            assert not args and kwargs.get("encoder_hidden_states") is None, "self-attention was given other tokens"
            state.counts["todo thinned attentions"] += 1
            thinned = _thin(hidden_states, block.grid(state.size), factor)
            return forward(hidden_states, **{**kwargs, "encoder_hidden_states": thinned})

        return call

    def _blocks(self, network: nn.Module) -> list[tuple[str, TokenBlock]]:
        unet_blocks(network, "ToDo")  # raises where there are no levels
        blocks = token_blocks(network, "ToDo")
        factors = dict(enumerate(self.factors))
        chosen = [(name, block) for name, block in blocks.items() if factors.get(block.level, 1) > 1]
        if not chosen and any(factor > 1 for factor in self.factors):
            first = min(block.level for block in blocks.values())
            raise UsageError(
                f"ToDo: factors={self.factors} reach no transformer block of {type(network).__name__}; "
                f"use {[1] * first + [2]}"
            )
        if any(type(block.module.get_submodule("attn1").processor).__name__.startswith("Fused") for _, block in chosen):
            raise UsageError(
                "ToDo: fused projections compute queries, keys and values of the same tokens, and here keys and values "
                "are of fewer; call pipe.unfuse_qkv_projections()"
            )
        return chosen


def _thin(tokens: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Sub-sample a token grid: (rows, H * W, C) -> (rows, (H // factor) * (W // factor), C), at least one a side."""
    small = (max(1, grid[0] // factor), max(1, grid[1] // factor))
    return resize(tokens.transpose(1, 2).unflatten(2, grid), small).flatten(2).transpose(1, 2)
