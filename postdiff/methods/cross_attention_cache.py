"""Cross-attention caching with CFG cut off (PostDiff, module level): after the gate, text is no longer looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from postdiff.engine.cache import ModuleCache
from postdiff.engine.intercept import intercept
from postdiff.engine.selectors import cross_attentions
from postdiff.engine.state import State
from postdiff.methods.base import Method
from postdiff.methods.options import require, require_moment

__all__ = ["CrossAttentionCache"]


@dataclass
class CrossAttentionCache(Method):
    """From step `gate` on, every cross-attention replays its output of step `gate - 1`, and guidance is off.

    The whole module is skipped: query, key, value and output projection. A change of latent size after the gate
    recomputes once at the new size.

    Args:
        gate: number of guided steps = first step that replays; a step or a fraction of the run. 1.0 means never.
        fill: what is stored at step gate - 1, u and c being the two branches' outputs and w the guidance scale:
            "cond" c (the paper's choice), "ave" (u + c) / 2 (T-GATE's), "cfg" u + w (c - u).
        cutoff: drop the unconditional branch after the gate, as PostDiff does. Without it each branch replays its
            own output, and only fill="cond" is meaningful.

    Reference:
        Du, Fu, Wang et al., arXiv:2508.06160, hybrid module caching; Zhang et al. (T-GATE), arXiv:2404.02747.
    """

    gate: int | float = 0.75
    fill: Literal["cond", "ave", "cfg"] = "cond"
    cutoff: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_moment(self, "gate")
        require(self, self.cutoff or self.fill == "cond", "fill", "'cond' when cutoff is off: both branches go on")

    def claims(self, network: nn.Module) -> list[str]:
        return list(cross_attentions(network))

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        def merge(fresh: dict[str, Any], step: int) -> dict[str, Any]:
            return self._merge(fresh, state.guidance_scale)

        cache = ModuleCache("cross_attention_cache", lambda written, now: now < self._gate, merge)
        for name, module in cross_attentions(network).items():
            yield intercept(module, "forward", cache.around(name, state))

    def start(self, state: State) -> None:
        self._gate = state.step_of(self.gate, "gate")
        state.boundaries.add(self._gate)

    def step_start(self, state: State) -> None:
        if self.cutoff and state.index >= self._gate:
            state.only = "cond"

    def _merge(self, fresh: dict[str, Any], guidance_scale: float) -> dict[str, Any]:
        if self.fill == "cond" or len(fresh) == 1:
            return fresh
        u, c = fresh["uncond"], fresh["cond"]
        return {"cond": (u + c) / 2 if self.fill == "ave" else u + guidance_scale * (c - u)}
