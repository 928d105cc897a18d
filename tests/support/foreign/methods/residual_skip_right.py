"""Skip transformer blocks at all but every n-th step; add what they added last time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from postdiff.engine.cache import ModuleCache, Refresh
from postdiff.engine.intercept import intercept
from postdiff.engine.ownership import owned
from postdiff.engine.residual_span import ResidualSpan, arguments_of, stacked_blocks
from postdiff.engine.selectors import is_unet, spatial_transformers, with_all_inside
from postdiff.methods.base import Method


@dataclass
class ResidualSkipRight(Method):
    """y_t = x_t + (f(x_k) - x_k), k the last multiple of `interval`, for every transformer block f."""

    interval: int = 2

    def _found(self, network):
        return (spatial_transformers if is_unet(network) else stacked_blocks)(network, "ResidualSkip")

    def claims(self, network):
        return with_all_inside(self._found(network))

    def attach(self, network, state):
        cache = ModuleCache("residual_skip", self._due)
        for name, module in self._found(network).items():
            if is_unet(network):
                yield intercept(module, "forward", _around(cache.around(name, state)))
            else:
                yield from ResidualSpan("residual_skip", {name: module}, state, self._decide(state)).attach()

    def start(self, state):
        self._refresh = Refresh.every(self.interval, state.steps)
        state.boundaries |= self._refresh.turns(state.steps)

    def _due(self, written, now):
        return self._refresh.due(written, now)

    def _decide(self, state):
        written = {}

        def decide(branch, place, known):
            key = state.size, branch
            replay = known and not self._due(written[key], state.index)
            if not replay:
                written[key] = state.index + state.span - 1
            return torch.full((state.samples * state.span,), replay, device="cpu")

        return decide


def _around(inner):
    """What the cache sees is what a block adds; a computed output is handed on as it is."""

    def around(forward, *args, **kwargs):
        given, fresh = owned(arguments_of(forward, args, kwargs)["hidden_states"]), []

        def added(*args, **kwargs):
            output = forward(*args, **kwargs)
            fresh[:] = output, _shifted(output, -given)
            return fresh[1]

        found = inner(added, *args, **kwargs)
        return fresh[0] if fresh and found is fresh[1] else _shifted(found, given)

    return around


def _shifted(output, by):
    return output + by if isinstance(output, Tensor) else (output[0] + by, *output[1:])
