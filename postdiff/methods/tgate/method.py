"""T-GATE: self-attention is replayed while the layout forms, cross-attention ever after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from postdiff.engine.errors import UsageError
from postdiff.engine.replay import Due, Replay, at, before, each
from postdiff.engine.selectors import cross_attentions, self_attentions
from postdiff.engine.state import State
from postdiff.methods.cache import Cache
from postdiff.methods.options import require, require_moment

__all__ = ["TGATE"]


@dataclass
class TGATE(Cache):
    r"""Before `gate`, self-attention is computed now and then; from it on, cross-attention never again, unguided.

    At step gate - 1 both are computed and the mean of the two guidance branches is what is replayed afterwards.
    Version 1 has no self-attention caching: both intervals 1. A latent size that is new after the gate recomputes
    cross-attention once, with the one text that goes on.

    The gate counts solver calls, of which PNDM makes one more than it is asked for steps. The authors' newer versions
    do not count that one: they guide gate + 1 calls, which here is a gate larger by one.

    Args:
        gate: number of guided steps; a step or a fraction of the run. 1.0 means never.
        self_attention_interval: before the gate, self-attention is computed at its multiples and replayed between.
        fidelity_interval: the same from the gate on.
        warmup: up to this step, inclusive, self-attention is always computed.
        text: the branch that goes on after the gate. "uncond", the negative prompt, is what the authors pass,
            since cross-attention no longer reads it.

    Equation:
        A_t = \tfrac{1}{2} (A^{u}_{g-1} + A^{c}_{g-1}) \text{ for } t \ge g,
        \qquad S_t = S_k, \quad k = n \lfloor t / n \rfloor \text{ for } t < g

    Works on:
        Networks with separate cross-attention, both guidance branches in one call.

    Oracle:
        A slow reference written from the authors' step table, and their published MACs within 0.1 %.

    Reference:
        Zhang et al., "Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models" (version 1);
        Liu et al., "Faster Diffusion via Temporal Attention Decomposition", TMLR 2025 (version 2); both are
        arXiv:2404.02747.
    """

    gate: int | float = 0.4
    self_attention_interval: int = 5
    fidelity_interval: int = 1
    warmup: int = 2
    text: Literal["uncond", "cond"] = "uncond"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_moment(self, "gate")
        require(self, self.self_attention_interval >= 1, "self_attention_interval", "1 or more")
        require(self, self.fidelity_interval >= 1, "fidelity_interval", "1 or more")
        require(self, self.warmup >= 0, "warmup", "0 or more")

    def claims(self, network: nn.Module) -> list[str]:
        return [*super().claims(network), "guidance"]

    def replays(self, network: nn.Module) -> list[Replay]:
        # A mean is kept of every guided step: where DeepCache leaves a block out at gate - 1, the latest counts.
        cross = each(cross_attentions(network), self._cross, merge=self._mean, name="tgate cross-attention")
        own = self._self_attentions(network)
        return cross + each(own, self._own, merge=self._at_gate, name="tgate self-attention")

    def _cross(self, state: State) -> Due:
        return before(self._gate)

    def _own(self, state: State) -> Due:
        return at(step for step in range(state.steps) if self._computes_self_attention(step))

    def start(self, state: State) -> None:
        if state.separate:
            raise UsageError("TGATE stores the mean of both guidance branches, which this pipeline computes one by one")
        if len(state.all_branches) > 2:
            raise UsageError(
                f"TGATE stores the mean of two guidance branches; this pipeline has {', '.join(state.all_branches)}"
            )
        self._gate = state.step_of(self.gate, "gate")
        state.boundaries.add(self._gate)
        super().start(state)

    def step_start(self, state: State) -> None:
        if state.index >= self._gate:
            state.only = self.text

    def _computes_self_attention(self, step: int) -> bool:
        if step >= self._gate:
            return step % self.fidelity_interval == 0
        return step <= self.warmup or step == self._gate - 1 or step % self.self_attention_interval == 0

    def _self_attentions(self, network: nn.Module) -> dict[str, nn.Module]:
        never_replayed = self.self_attention_interval == self.fidelity_interval == 1
        return {} if never_replayed else self_attentions(network)

    def _mean(self, fresh: dict[str, Any], step: int, guidance_scale: float) -> dict[str, Any]:
        return {self.text: (fresh["uncond"] + fresh["cond"]) / 2} if len(fresh) == 2 else fresh

    def _at_gate(self, fresh: dict[str, Any], step: int, guidance_scale: float) -> dict[str, Any]:
        return self._mean(fresh, step, guidance_scale) if step == self._gate - 1 else fresh
