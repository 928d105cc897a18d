"""Cross-attention caching with CFG cut off (PostDiff, module level): after the gate, text is no longer looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.replay import Due, Replay, before, each
from postdiff.engine.selectors import cross_attentions
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require, require_moment

__all__ = ["CrossAttentionCache"]


@dataclass
class CrossAttentionCache(Cache):
    r"""From step `gate` on, every cross-attention replays an earlier output, and guidance is off.

    The whole module is skipped: query, key, value and output projection. A change of latent size after the gate
    recomputes once at the new size.

    Args:
        gate: number of guided steps = first step that replays; a step or a fraction of the run. 1.0 means never.
        fill: what is stored, u and c being the two branches' outputs and w the guidance scale: "cond" c (the
            paper's choice), "ave" (u + c) / 2 (T-GATE's), "cfg" u + w (c - u).
        fill_step: "last_guided" stores at step gate - 1, as T-GATE does; the paper does not say. "first_unguided"
            computes cross-attention once more at step gate, for the conditional branch alone.
        text: the branch whose text goes on after the gate, "cond" or, as in T-GATE, "uncond". With all
            cross-attention replayed it matters where a network reads text elsewhere, as SDXL reads its pooled
            text, and to a recomputation at a new size.
        cutoff: drop the unconditional branch after the gate, as PostDiff does. Without it each branch replays its
            own output, and only fill="cond" is meaningful.

    Equation:
        A_t = \begin{cases} \mathrm{CA}(x_t, \text{text}) & t < g \\ A^{c}_{g-1} & t \ge g \end{cases} \qquad
        \hat\epsilon_t = c_t \text{ for } t \ge g

    Works on:
        Networks with separate cross-attention, with or without guidance.

    Oracle:
        A slow loop that computes everything and overwrites it.

    Reference:
        Du, Fu, Wang et al., arXiv:2508.06160, hybrid module caching; Zhang et al. (T-GATE), arXiv:2404.02747.
    """

    gate: int | float = 0.75
    fill: Literal["cond", "ave", "cfg"] = "cond"
    fill_step: Literal["last_guided", "first_unguided"] = "last_guided"
    text: Literal["cond", "uncond"] = "cond"
    cutoff: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_moment(self, "gate")
        require(self, self.cutoff or self.fill == "cond", "fill", "'cond' when cutoff is off: both branches go on")
        require(self, self.cutoff or self.text == "cond", "text", "'cond' when cutoff is off: both texts go on")
        if self.fill_step == "first_unguided":
            for option in ("fill", "text"):
                alone = getattr(self, option) == "cond"
                require(self, alone, option, "'cond' with fill_step='first_unguided': no other branch is left then")

    def replays(self, network: nn.Module) -> list[Replay]:
        merge = self._merge if self.cutoff else None
        return each(cross_attentions(network), self._rule, merge=merge, name="cross_attention_cache")

    def _rule(self, state: State) -> Due:
        return before(self._gate + (self.fill_step == "first_unguided"))

    def start(self, state: State) -> None:
        if state.separate and self.fill != "cond":
            raise UsageError(
                f"CrossAttentionCache: fill='{self.fill}' mixes both guidance branches, which this pipeline computes "
                "one by one; use 'cond'"
            )
        self._gate = state.step_of(self.gate, "gate")
        state.boundaries.add(self._gate)
        super().start(state)

    def step_start(self, state: State) -> None:
        if self.cutoff and state.index >= self._gate:
            state.only = self.text

    def _merge(self, fresh: dict[str, Any], step: int, guidance_scale: float) -> dict[str, Any]:
        if len(fresh) == 1:
            return fresh
        u, c = fresh["uncond"], fresh["cond"]
        filling = {"cond": lambda: c, "ave": lambda: (u + c) / 2, "cfg": lambda: u + guidance_scale * (c - u)}
        return {self.text: filling[self.fill]()}
