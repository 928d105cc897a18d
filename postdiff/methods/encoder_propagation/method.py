"""Encoder propagation (Faster Diffusion): between key steps only the decoder runs, for many steps at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from postdiff.engine.claims import ROWS
from postdiff.engine.fingerprint import Fingerprint, noted, unchanged
from postdiff.engine.halves import halves_of
from postdiff.engine.intercept import intercept
from postdiff.engine.ownership import owned
from postdiff.engine.replay import Replay, at, each
from postdiff.engine.replay.module import ModulePiece
from postdiff.engine.rows import join_rows, rows_of_branches
from postdiff.engine.spans import for_first_step, foreseen, predict_span
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, NetworkCall
from postdiff.methods.cache import Cache
from postdiff.methods.encoder_propagation.ablations import Ablation
from postdiff.methods.encoder_propagation.key_steps import key_steps
from postdiff.methods.options import require

__all__ = ["EncoderPropagation"]


@dataclass
class EncoderPropagation(Cache):
    r"""At key steps the whole network runs; at the others its decoder alone, on the features of the last key step.

    Every step keeps its own time embedding, text and solver update. A prediction between key steps does not depend on
    the running latents, so "parallel" decoding makes all those up to the next key step in one call. The images are
    the same up to float error, for any solver, with fewer calls and more memory. (A method that draws at every call,
    as ToMe does, then draws less often.) A run of steps decoded together also ends where size or guidance change.
    Where a callback has changed what a later step hands the network, or the network itself, the steps from there on are
    decoded anew. A new latent size is computed in full once, whatever the keys. A ControlNet runs at key steps, and
    where its scale changes.

    Args:
        keys: a stride (the authors advise 4 for models of the community), the name of a published set
            (`postdiff.methods.encoder_propagation.key_steps`), or the key steps themselves, counted from 0.
        decoding: "parallel" or "sequential".
        max_parallel: most steps in one call, which bounds the memory; 0 means no bound.
        propagate: what is kept between key steps. "encoder" is the method; "decoder" keeps the up blocks but the
            finest, which reads this step's skip connections; "both" keeps all but that block; "nothing" computes
            nothing and predicts zero. The last three are ablations, always sequential: `decoding` and `max_parallel`
            mean nothing to them.
        split: blocks that make the encoder of a transformer; 18 of 28 if null.

    Equation:
        \epsilon_t = D(E(x_k), t), \qquad k = \max \{ s \in K : s \le t \}, \qquad K \text{ the key steps}

    Works on:
        U-Nets, with ControlNet too, DiT and PixArt.

    Oracle:
        A loop written over the parts of a U-Net for sequential decoding; parallel decoding equals it within 1e-5.

    Reference:
        Li et al., "Faster Diffusion: Rethinking the Role of the Encoder for Diffusion Model Inference", NeurIPS
        2024, arXiv:2312.09608, Sec. 3.3; ablations as in its Table 14, whose wiring the paper does not give.
    """

    innermost: ClassVar[float] = 1
    keys: int | str | list[int] = 4
    decoding: Literal["parallel", "sequential"] = "parallel"
    max_parallel: int = 0
    propagate: Literal["encoder", "decoder", "both", "nothing"] = "encoder"
    split: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, not isinstance(self.keys, int) or self.keys >= 1, "keys", "a stride of 1 or more")
        require(self, self.max_parallel >= 0, "max_parallel", "0 or more")

    def claims(self, network: nn.Module) -> list[str]:
        return [*self._kept(network)[0], ROWS]

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        self._replays: list[Replay] = []
        self._ablation = self._ablated()
        if self.propagate == "nothing":
            return
        kept, skips = self._kept(network)
        inside = {part for module in kept.values() for part in module.modules()}
        self._decoder = [module for module in network.modules() if module not in inside]
        yield from super().attach(network, state)
        if not skips:
            last = self._replays[-1].piece
            assert isinstance(last, ModulePiece)
            for module in list(kept.values())[:-1]:
                yield intercept(module, "forward", for_first_step(_passed_by(last), state))

    def replays(self, network: nn.Module) -> list[Replay]:
        kept, skips = self._kept(network)
        pieces = each(kept, lambda state: at(self._keys), name="encoder_propagation", once=True)
        return pieces if skips else pieces[-1:]  # of a chain the last module's output alone is read

    def start(self, state: State) -> None:
        self._keys = key_steps(self.keys, state.steps, "EncoderPropagation")
        self._decoded: dict[int, dict[str, Tensor]] = {}
        self._network: Fingerprint | None = None
        self._control: dict[tuple[int, ...], _Held] = {}
        super().start(state)

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        if self._ablation is not None:
            return self._ablation.denoise(forward, sample, kwargs, state.index in self._keys)
        if self.decoding == "sequential" or state.extra:
            return forward(sample, kwargs)
        ready = self._decoded.pop(state.index, {})
        if not all(branch in ready for branch in state.branches) or not self._foreseen(kwargs, state):
            span = self._span(state)
            longest = "encoder_propagation decoded at once"
            state.counts[longest] = max(span, state.counts[longest])
            self._asked = noted(_without_time(kwargs))
            self._decoded = predict_span(forward, sample, kwargs, state, span)
            if span > 1 and (self._network is None or not self._network.holds()):
                self._network = Fingerprint(self._decoder)
            ready = self._decoded.pop(state.index)
        return join_rows([ready[branch] for branch in state.branches])

    def _foreseen(self, kwargs: dict[str, Any], state: State) -> bool:
        """Whether the steps decoded ahead were decoded with what the pipeline really hands over at this one."""
        if not foreseen(kwargs, state) or not unchanged(_without_time(kwargs), self._asked):
            return False
        return self._network is None or self._network.holds()

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        size, scale = tuple(kwargs["sample"].shape[-2:]), kwargs.get("conditioning_scale")
        held = self._control.get(size)
        holds = self._ablation is None or self._ablation.holds_control
        fresh = state.index in self._keys or not holds
        if fresh or held is None or not set(state.branches) <= set(held.branches) or not unchanged(scale, held.scale):
            residuals = forward(kwargs)
            self._control[size] = _Held(owned(residuals), state.branches, noted(scale))
            return residuals
        return owned(rows_of_branches(held.residuals, held.branches, state.branches))

    def _span(self, state: State) -> int:
        """How many steps from this one on can be decoded together."""
        ends = {*self._keys, *state.boundaries, *state.turns, state.steps}
        if self.max_parallel:
            ends.add(state.index + self.max_parallel)
        return min(end for end in ends if end > state.index) - state.index

    def _kept(self, network: nn.Module) -> tuple[dict[str, nn.Module], bool]:
        halves = halves_of(network, "EncoderPropagation", self.split)
        ablation = self._ablated()
        return halves.encoder if ablation is None else ablation.kept(network, halves), halves.skips

    def _ablated(self) -> Ablation | None:
        return None if self.propagate == "encoder" else Ablation(self.propagate)


@dataclass
class _Held:
    """A ControlNet's residuals, the branches that their rows are of, and the scale that they were asked for with."""

    residuals: Any
    branches: tuple[str, ...]
    scale: Any


def _without_time(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "timestep"}


def _passed_by(last: ModulePiece) -> Callable[..., Any]:
    """In a chain only the last module's output is read, so those before it hand on their input when it is replayed."""

    def around(forward: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden_states if last.holds() else forward(hidden_states, *args, **kwargs)

    return around
