"""What a cache method is: pieces of the network, each with a rule and a fill."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor, nn

from postdiff.engine.chebyshev import forecast
from postdiff.engine.replay import Due, Hold, Replay, Residual, Taylor, Watch, Weighted, turns
from postdiff.engine.replay.fills import Fill
from postdiff.engine.replay.network import NetworkPiece
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, Method, NetworkCall

__all__ = ["Cache", "NetworkFill"]

# What stands in for the whole network's output: the output itself, what the network added to its input, the output
# continued in a line or a parabola, or Spectrum's forecast from all that was computed.
NetworkFill = Literal["output", "residual", "linear", "quadratic", "chebyshev"]


class Cache(Method):
    """Base of methods that skip work by replaying something: they write `replays` alone."""

    def replays(self, network: nn.Module) -> Iterable[Replay]:
        """The pieces, made anew for every run.

        Raises:
            UsageError: the network has none of the modules that the method acts on.
        """
        raise NotImplementedError

    def network_fill(self, name: NetworkFill) -> Fill:
        """A fill for `NETWORK` by its name."""
        if name == "chebyshev":
            return Weighted(lambda steps, now: forecast(steps, now, self._steps), sys.maxsize)
        fills: dict[str, Fill] = {"output": Hold(), "residual": Residual(), "linear": Taylor(1), "quadratic": Taylor(2)}
        return fills[name]

    def claims(self, network: nn.Module) -> list[str]:
        return [claim for replay in self.replays(network) for claim in replay.claims]

    def attach(self, network: nn.Module, state: State) -> Iterator[AbstractContextManager[None]]:
        self._replays = list(self.replays(network))
        for replay in self._replays:
            yield from replay.attach(state)

    def start(self, state: State) -> None:
        self._steps = state.steps
        known: dict[int, Due] = {}  # pieces may share a rule
        for replay in self._replays:
            if isinstance(replay.rule, Watch):
                replay.start(replay.rule)
                continue
            if id(replay.rule) not in known:
                known[id(replay.rule)] = due = replay.rule(state)
                if not replay.once:
                    state.turns |= turns(due, state.steps)
            replay.start(known[id(replay.rule)])

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        piece = self._network_piece()
        return forward(sample, kwargs) if piece is None else piece.denoise(forward, sample, kwargs)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        piece = self._network_piece()
        return forward(kwargs) if piece is None else piece.condition(forward, kwargs)

    def _network_piece(self) -> NetworkPiece | None:
        return next((replay.piece for replay in self._replays if isinstance(replay.piece, NetworkPiece)), None)
