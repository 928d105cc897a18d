"""First-Block cache: when the first block adds nearly what it added before, the others are replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from postdiff.engine.intercept import intercept
from postdiff.engine.ownership import owned
from postdiff.engine.residual_span import ResidualSpan, arguments_of, main_stream, refuse_meta, stacked_blocks
from postdiff.engine.selectors import with_all_inside
from postdiff.engine.state import State
from postdiff.methods.base import Method

__all__ = ["FirstBlockCache"]


@dataclass
class FirstBlockCache(Method):
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

    def claims(self, network: nn.Module) -> list[str]:
        return with_all_inside(stacked_blocks(network, "FirstBlockCache"))

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        (_, first), *others = stacked_blocks(network, "FirstBlockCache").items()
        residuals: dict[Any, Tensor] = {}  # at the last step computed, by size and branch
        now: dict[int, Tensor] = {}  # in this call of the network, unless it leaves the first block out

        def probe(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = owned(arguments_of(forward, args, kwargs)["hidden_states"])  # a block may write into its input
            output = forward(*args, **kwargs)
            now.clear()
            now[state.network_call] = main_stream(first, output) - given
            return output

        def decide(branch: str, place: int, known: bool) -> Tensor:
            if state.network_call not in now:
                return torch.zeros(state.samples, dtype=torch.bool, device="cpu")
            found, key = now[state.network_call].chunk(len(state.branches))[place], (state.size, branch)
            refuse_meta(found, "FirstBlockCache")
            if not known:
                residuals[key] = found
                return torch.zeros(len(found), dtype=torch.bool, device="cpu")
            before = residuals[key]
            change = (found - before).abs().flatten(1).mean(1) / before.abs().flatten(1).mean(1)
            replay = change <= self.threshold
            residuals[key] = torch.where(replay.view(-1, *[1] * (found.ndim - 1)), before, found)
            return replay.cpu()

        yield intercept(first, "forward", probe)
        yield from ResidualSpan("first_block_cache", dict(others), state, decide).attach()
