"""FORA: every attention and feed-forward output of a transformer block is replayed between every N-th step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from postdiff.engine.attention_kinds import attentions_and_feed_forwards
from postdiff.engine.replay import Replay, at, each
from postdiff.methods.cache import Cache
from postdiff.methods.options import require

__all__ = ["FORA"]


@dataclass
class FORA(Cache):
    r"""Compute attention and feed-forward modules at every `interval`-th step and replay their outputs between.

    Modulation, normalisation and residual sums stay this step's own, so the time embedding is always right. Defined
    for transformers; in a U-Net it acts on the transformer blocks and leaves the convolutions.

    Args:
        interval: 1 computes everything.

    Equation:
        F_t = F_k, \qquad k = N \lfloor t / N \rfloor, \qquad F \text{ an attention or feed-forward output}

    Works on:
        Transformer blocks, in U-Nets too.

    Oracle:
        A slow reference that computes everything and overwrites it.

    Reference:
        Selvaraju et al., "FORA: Fast-Forward Caching in Diffusion Transformer Acceleration", arXiv:2407.01425.
    """

    interval: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.interval >= 1, "interval", "1 or more")

    def replays(self, network: nn.Module) -> list[Replay]:
        modules = attentions_and_feed_forwards(network, "FORA")
        return each(modules, lambda state: at(range(0, state.steps, self.interval)), name="fora")
