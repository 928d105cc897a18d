"""From samples to pixels through the stages of a cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.lab.network.network_options import NetworkOptions
from postdiff.lab.pipelines import intake
from postdiff.lab.plan import Plan
from postdiff.lab.samples import Sample, generator
from postdiff.lab.sampling.cascade import Cascade, Stage
from postdiff.lab.sampling.finite import FiniteLatents
from postdiff.lab.sampling.noise import own_noise
from postdiff.lab.sampling.sampler import Sampler

__all__ = ["CascadeSampler"]


class CascadeSampler(Sampler):
    """Makes the pictures of a plan whose model has stages.

    Args:
        pipes: {stage: its pipeline}, in order; other samplers may use them in turn.
        loaded: {stage: the scheduler that its pipeline was loaded with}.
        plan: what to make.

    Attributes:
        pipe: the cascade; `pipe.pipes` are its pipelines.
        fast: the same, with `counts` of the last call.
    """

    def __init__(self, pipes: Mapping[str, Any], loaded: Mapping[str, Any], plan: Plan) -> None:
        self.plan = plan
        self.watch = FiniteLatents()

        def chain(*outermost: Any) -> Cascade:
            return Cascade(
                [
                    Stage(run.name, pipes[run.name], run.steps, [*outermost, *run.methods], run.arguments)
                    for run in plan.stages
                ]
            )

        try:
            self.pipe = self.fast = chain()
            self.watched = chain(self.watch)  # one for all stages: its steps are numbered through
            self.stage_options = {name: NetworkOptions(pipe, plan.config.network) for name, pipe in pipes.items()}
            self.schedulers = {run.name: schedulers.layered(loaded[run.name], *run.solvers) for run in plan.stages}
        except UsageError as error:
            raise UsageError(f"row '{plan.name}': {error}") from error

    @property
    def in_pixels(self) -> bool:
        return intake.in_pixels(self.pipe.stages[-1].pipe)

    def call(self, samples: Sequence[Sample], driver: Any = None) -> Any:
        """One call of all stages; each sample's generator goes on from stage to stage.

        Args:
            samples: one row of the call each.
            driver: called in the place of the cascade.

        Raises:
            UsageError: settings that a stage refuses; row and stage are named.
        """
        generators = [generator(sample) for sample in samples]
        chain = driver or self.fast
        try:
            with ExitStack() as stack:
                for name, pipe in self.pipe.pipes.items():
                    pipe.scheduler = self.schedulers[name]
                    stack.enter_context(own_noise(pipe, generators))
                    stack.enter_context(self.stage_options[name].around(getattr(chain, "drivers", {}).get(name, chain)))
                prompts = [sample.prompt for sample in samples]
                return chain(prompts, generator=generators, output_type="pt")
        except UsageError as error:
            raise UsageError(f"row '{self.plan.name}': {error}") from error
