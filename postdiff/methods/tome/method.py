"""ToMe for Stable Diffusion: merge similar image tokens before attention, put copies back after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from postdiff.engine.claims import DRAWS
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.selectors import TokenBlock, cross_attentions, token_blocks
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require
from postdiff.methods.tome.token_merging import TokenMerging

__all__ = ["ToMe"]


@dataclass
class ToMe(Method):
    r"""In every block of the finer levels, the share `ratio` of the tokens is merged away around a module.

    The matching is computed anew at every block and step, on the block's input. Equal to tomesd, on the CPU bit for
    bit (tested), with one deviation: tomesd goes on with one generator from call to call, and turns `rand` off for
    an odd number of rows. Here every call starts from `seed` and one draw serves all rows of a block, so that an
    image repeats itself and does not depend on its batch; the samplers' own generators are not used.

    Args:
        ratio: share of the tokens merged away, up to that of the sources, 1 - 1 / (sx sy).
        max_downsample: blocks up to this downsampling take part, counted from the network's finest token grid.
            The first level of SDXL has no attention, so 2 is the least there.
        sx: width of a cell in tokens; each cell has one destination.
        sy: height of a cell in tokens.
        rand: draw each cell's destination; otherwise it is the upper left token.
        seed: of the generator behind `rand`.
        merge_attention: merge around self-attention.
        merge_cross_attention: merge around cross-attention.
        merge_mlp: merge around the feed-forward layer.

    Equation:
        y = U \, f(M x), \qquad M \in \mathbb{R}^{(1 - r) n \times n} \text{ merges } r n \text{ of } n \text{ tokens},
        \qquad U \text{ copies them back}

    Works on:
        U-Nets, DiT and PixArt.

    Oracle:
        The authors' package tomesd 0.1.3, bit for bit.

    Reference:
        Bolya, Hoffman, "Token Merging for Fast Stable Diffusion", CVPR Workshops 2023, arXiv:2303.17604, Sec. 4.
    """

    ratio: float = 0.5
    max_downsample: Literal[1, 2, 4, 8] = 1
    sx: int = 2
    sy: int = 2
    rand: bool = True
    seed: int = 0
    merge_attention: bool = True
    merge_cross_attention: bool = False
    merge_mlp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.sx >= 1, "sx", "1 or more")
        require(self, self.sy >= 1, "sy", "1 or more")
        most = 1 - 1 / (self.sx * self.sy)
        require(self, 0 <= self.ratio <= most, "ratio", f"from 0 to {most:g}, the share of sources in a cell")
        require(self, bool(self._children()), "merge_attention", "true unless another merge_... is")

    def claims(self, network: nn.Module) -> list[str]:
        if self.merge_cross_attention:
            cross_attentions(network)  # raises where there is none
        claimed = [f"{name}.{child}" for name in self._blocks(network) for child in self._children()]
        return [*claimed, *([DRAWS] if self.rand else [])]

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        generator = torch.Generator().manual_seed(self.seed) if self.rand else None
        for block in self._blocks(network).values():
            around_block, around_child = self._wrappers(block, generator, state)
            yield intercept(block.module, "forward", around_block)
            for child in self._children():
                yield intercept(block.module.get_submodule(child), "forward", around_child)

    def _wrappers(
        self, block: TokenBlock, generator: torch.Generator | None, state: State
    ) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        now: list[tuple[TokenMerging, torch.Size]] = []

        def around_block(forward: Callable[..., Tensor], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            merging = TokenMerging(hidden_states, block.grid(state.size), (self.sy, self.sx), self.ratio, generator)
            now[:] = [(merging, hidden_states.shape[:2])]
            state.counts["tome merges"] += merging.merged > 0
            return forward(hidden_states, *args, **kwargs)

        def around_child(forward: Callable[..., Tensor], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            merging, shape = now[0]
            if hidden_states.shape[:2] != shape:
                raise UsageError(
                    "ToMe: the network calls its feed-forward layers for parts of the tokens (forward chunking); turn "
                    "that off, or use merge_mlp=False"
                )
            return merging.unmerge(forward(merging.merge(hidden_states), *args, **kwargs))

        return around_block, around_child

    def _children(self) -> list[str]:
        wanted = {"attn1": self.merge_attention, "attn2": self.merge_cross_attention, "ff": self.merge_mlp}
        return [child for child, merge in wanted.items() if merge]

    def _blocks(self, network: nn.Module) -> dict[str, TokenBlock]:
        blocks = token_blocks(network, "ToMe")
        chosen = {name: block for name, block in blocks.items() if 2**block.level <= self.max_downsample}
        if not chosen:
            raise UsageError(
                f"ToMe: max_downsample={self.max_downsample} reaches no transformer block of "
                f"{type(network).__name__}; use {2 ** min(block.level for block in blocks.values())} or more"
            )
        return chosen
