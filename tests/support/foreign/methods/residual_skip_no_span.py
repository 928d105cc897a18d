"""Wrong: knows nothing of calls that serve several steps, nor of branches that come and go."""

from dataclasses import dataclass

from postdiff.engine.intercept import intercept
from postdiff.engine.selectors import spatial_transformers, with_all_inside
from postdiff.methods.base import Method


@dataclass
class ResidualSkipNoSpan(Method):
    """x + (f(x') - x') between every `interval`-th step."""

    interval: int = 2

    def claims(self, network):
        return with_all_inside(spatial_transformers(network, "ResidualSkip"))

    def attach(self, network, state):
        for module in spatial_transformers(network, "ResidualSkip").values():
            yield intercept(module, "forward", self._around(state))

    def _around(self, state):
        residual = {}

        def around(forward, x, *args, **kwargs):
            key = state.size, state.branches
            if state.index % self.interval and key in residual:
                return (x + residual[key],)
            output = forward(x, *args, **kwargs)
            residual[key] = output[0] - x
            return output

        return around
