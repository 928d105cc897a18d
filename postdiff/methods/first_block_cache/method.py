"""First-Block cache: when the first block adds nearly what it added before, the others are replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from postdiff.engine.blocks import stacked_blocks
from postdiff.engine.replay import Change, Replay, Residual
from postdiff.methods.cache import Cache

__all__ = ["FirstBlockCache"]


@dataclass
class FirstBlockCache(Cache):
    r"""Run the first transformer block; if what it adds has hardly changed, replay what all others added last time.

    The change is |r - r0| / |r0|, means over the tokens of one row, r0 being the first block's residual at the last
    step that was computed in full. Every row of the batch is decided for itself, so the work differs from image to
    image.

    Args:
        threshold: replay up to this change; below 0 computes everything.

    Equation:
        h_t = x_t + r_t + R_k \qquad \text{while } \frac{|r_t - r_k|}{|r_k|} \le \delta,
        \qquad R_k \text{ what the other blocks added at step } k

    Works on:
        Transformers with a chain of blocks.

    Oracle:
        The hook of diffusers, bit for bit where it runs.

    Reference:
        ParaAttention's First Block Cache (C. Cheng), as in `diffusers.hooks.first_block_cache`, which decides for the
        whole batch at once; a special case of Liu et al. (TeaCache), arXiv:2411.19108.
    """

    adaptive: ClassVar[bool] = True
    threshold: float = 0.05

    def replays(self, network: nn.Module) -> list[Replay]:
        blocks = stacked_blocks(network, "FirstBlockCache")
        return [Replay(blocks, Change(self._little), Residual(), front=1, name="first_block_cache")]

    def _little(self, change: float) -> bool:
        return change <= self.threshold
