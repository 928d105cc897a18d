"""What a method is that leaves whole calls of the network out by what the solver sees."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from postdiff.engine import noise_levels
from postdiff.engine.claims import IMAGES_APART
from postdiff.engine.skipped_calls import SkippedCalls, SolverRule
from postdiff.engine.state import State
from postdiff.methods.base import ControlNetCall, Method, NetworkCall, StepCall

__all__ = ["SolverCache"]


class SolverCache(Method):
    """Base of methods whose rule stands at the solver's step: they write `rule` alone.

    Attributes:
        name: prefix of the counters in `state.counts`.
    """

    innermost: ClassVar[float] = 0.5
    adaptive: ClassVar[bool] = True
    name: ClassVar[str]

    def rule(self, state: State) -> SolverRule:
        """Made anew for every run, whose steps are known.

        Raises:
            UsageError: the solver does not tell what the rule reads.
        """
        raise NotImplementedError

    def claims(self, network: nn.Module) -> list[str]:
        return [*IMAGES_APART]

    def start(self, state: State) -> None:
        noise_levels.check(state.scheduler)
        self._calls = SkippedCalls(self.name, self.rule(state), state)

    def step_start(self, state: State) -> None:
        self._calls.step_start()

    def denoise(self, forward: NetworkCall, sample: Tensor, kwargs: dict[str, Any], state: State) -> Tensor:
        return self._calls.denoise(forward, sample, kwargs)

    def condition(self, forward: ControlNetCall, kwargs: dict[str, Any], state: State) -> Any:
        return self._calls.condition(forward, kwargs)

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        return self._calls.step(forward, output, timestep, sample)
