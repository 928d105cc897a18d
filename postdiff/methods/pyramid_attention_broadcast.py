"""Pyramid Attention Broadcast: the less a kind of attention changes, the longer its output is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from postdiff.engine.attention_kinds import attentions
from postdiff.engine.cache import ModuleCache, Refresh
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require

__all__ = ["PyramidAttentionBroadcast"]


@dataclass
class PyramidAttentionBroadcast(Method):
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

    def claims(self, network: nn.Module) -> list[str]:
        return [
            name
            for name, (kind, _) in attentions(network, "PyramidAttentionBroadcast").items()
            if self._every(kind) > 1
        ]

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        for name, (kind, module) in attentions(network, "PyramidAttentionBroadcast").items():
            if self._every(kind) > 1:
                yield intercept(module, "forward", self._cache(kind).around(name, state))

    def start(self, state: State) -> None:
        low, high = self.window
        inside = [low < timestep < high for timestep in state.timesteps.tolist()]
        self._scheduled = {}
        for kind in ("spatial", "temporal", "cross"):
            computed = [not within or step % self._every(kind) == 0 for step, within in enumerate(inside)]
            self._scheduled[kind] = Refresh(step for step, now in enumerate(computed) if now)
            state.boundaries |= self._scheduled[kind].turns(state.steps)
        if not any(inside) and self._most() > 1:
            raise UsageError(
                f"PyramidAttentionBroadcast: no timestep of this run is in window={list(self.window)}; widen it"
            )

    def _cache(self, kind: str) -> ModuleCache:
        return ModuleCache(
            f"pyramid_attention_broadcast {kind}", lambda written, now: self._scheduled[kind].due(written, now)
        )

    def _every(self, kind: str) -> int:
        return int(getattr(self, kind))

    def _most(self) -> int:
        return max(self.spatial, self.temporal, self.cross)
