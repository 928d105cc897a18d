"""TaylorSeer: between computed steps, module outputs are extrapolated instead of replayed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from postdiff.engine.attention_kinds import attentions_and_feed_forwards
from postdiff.engine.replay import Due, Replay, Taylor, at, each
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require

__all__ = ["TaylorSeer"]


@dataclass
class TaylorSeer(Cache):
    r"""Attention and feed-forward outputs of transformer blocks follow a Taylor series between computed steps.

    The first `warmup` steps are computed, then every `interval`-th, counted from the last of these. The differences
    that the series needs are kept for every module, so memory grows with the order. With an interval of 3 or more
    diffusers' own hook computes other steps: its count begins two steps later, so that its first gap is two steps
    whatever the interval. (With interval 3 and warmup 2 it computes 0, 1, 3, 6, 9; here these are 0, 1, 4, 7, 10.)

    Args:
        interval: 1 computes everything.
        order: of the series, at most 10; 0 replays, as FORA does.
        warmup: steps computed at the beginning.

    Equation:
        F_{k+j} = \sum_{i=0}^{m} \frac{j^i}{i!} F^{(i)}_k, \qquad F^{(i+1)}_k = (F^{(i)}_k - F^{(i)}_{k'}) / (k - k'),
        \qquad k' < k \text{ the last two computed steps}

    Works on:
        Transformer blocks, in U-Nets too.

    Oracle:
        The hook of diffusers, bit for bit where it runs, and a slow reference.

    Reference:
        Liu et al., "From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers", ICCV 2025,
        arXiv:2503.06923; its DiT settings are interval 3, order 3 and interval 4, order 4.
    """

    interval: int = 3
    order: int = 1
    warmup: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.interval >= 1, "interval", "1 or more")
        require(self, 0 <= self.order <= 10, "order", "from 0 to 10")
        require(self, self.warmup >= 1, "warmup", "1 or more")

    def replays(self, network: nn.Module) -> list[Replay]:
        modules = attentions_and_feed_forwards(network, "TaylorSeer")
        return each(modules, self._rule, Taylor(self.order), name="taylor_seer")

    def _rule(self, state: State) -> Due:
        return at([*range(self.warmup), *range(self.warmup - 1, state.steps, self.interval)])
