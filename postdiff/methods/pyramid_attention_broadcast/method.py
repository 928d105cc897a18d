"""Pyramid Attention Broadcast: the less a kind of attention changes, the longer its output is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from postdiff.engine.attention_kinds import attentions
from postdiff.engine.errors import UsageError
from postdiff.engine.replay import Due, Replay, at
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require

__all__ = ["PyramidAttentionBroadcast"]


@dataclass
class PyramidAttentionBroadcast(Cache):
    r"""Inside a window of noise levels, each kind of attention is computed at every n-th step and replayed between.

    Outside the window all is computed. Steps are counted from the start of the run, not of the window. A kind that
    the network lacks is passed over; one kind at least must be there.

    Args:
        spatial: n of attention among places of the image (joint attention with text included); 1 never replays.
        temporal: n of attention along time in video networks.
        cross: n of attention to text.
        window: [low, high]: the timesteps, of the scheduler's 1000, strictly between which outputs are replayed.

    Equation:
        A_t = A_k, \qquad k = n \lfloor t / n \rfloor, \qquad n \text{ of the kind: spatial, temporal or cross}

    Works on:
        Transformer blocks, in U-Nets too.

    Oracle:
        The hook of diffusers, bit for bit where it runs.

    Reference:
        Zhao et al., "Real-Time Video Generation with Pyramid Attention Broadcast", ICLR 2025, arXiv:2408.12588; the
        defaults are its settings for Open-Sora, the window that of Latte and of diffusers.
    """

    spatial: int = 2
    temporal: int = 4
    cross: int = 6
    window: list[int] | tuple[int, int] = (100, 800)

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("spatial", "temporal", "cross"):
            require(self, getattr(self, option) >= 1, option, "1 or more")
        ordered = len(self.window) == 2 and self.window[0] < self.window[1]
        require(self, ordered, "window", "two timesteps, the lower one first")

    def replays(self, network: nn.Module) -> list[Replay]:
        found = attentions(network, "PyramidAttentionBroadcast")
        return [
            Replay({name: module}, partial(self._rule, kind), name=f"pyramid_attention_broadcast {kind}")
            for name, (kind, module) in found.items()
            if self._every(kind) > 1
        ]

    def start(self, state: State) -> None:
        if not any(self._inside(state)) and max(self.spatial, self.temporal, self.cross) > 1:
            raise UsageError(
                f"PyramidAttentionBroadcast: no timestep of this run is in window={list(self.window)}; widen it"
            )
        super().start(state)

    def _rule(self, kind: str, state: State) -> Due:
        inside = self._inside(state)
        return at(step for step, within in enumerate(inside) if not within or step % self._every(kind) == 0)

    def _inside(self, state: State) -> list[bool]:
        low, high = self.window
        return [low < timestep < high for timestep in state.timesteps.tolist()]

    def _every(self, kind: str) -> int:
        return int(getattr(self, kind))
