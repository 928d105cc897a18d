"""The sampler of a row, around pipelines that neighbouring rows share."""

from __future__ import annotations

from typing import Any

from postdiff.lab.generate.cascade import CascadeSampler
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.pipelines import cards, models, network_options, random_weights
from postdiff.lab.plan.plan import Plan

__all__ = ["Pipelines"]


class Pipelines:
    """What was loaded last is kept, since neighbouring rows mostly share it: a pipeline, or the stages of a cascade."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._pipes: dict[str, Any] = {}
        self._schedulers: dict[str, Any] = {}

    def sampler(self, plan: Plan) -> Sampler:
        """A sampler for the plan, loading its pipeline if it is not the one at hand."""
        wanted: dict[str, tuple[cards.PipelineCard, str]] = {one.name: (one.card, one.dtype) for one in plan.stages}
        wanted = wanted or {"": (plan.card, str(plan.config.dtype))}
        classes = [(name, card.pipeline, dtype) for name, (card, dtype) in wanted.items()]
        device, offload = plan.config.device, plan.config.network.offload
        key = (plan.checkpoint, device, offload, *classes)
        if key != self._key:
            self._key, self._pipes = None, {}  # the old one first: two may not fit in memory
            load = random_weights.load if plan.config.weights == "random" else models.load
            for name, (card, dtype) in wanted.items():
                self._pipes[name] = load(card, dtype, "cpu" if offload else device)
                if offload:
                    network_options.place(self._pipes[name], offload, device)
            self._key, self._schedulers = key, {name: pipe.scheduler for name, pipe in self._pipes.items()}
        if plan.stages:
            return CascadeSampler(self._pipes, self._schedulers, plan)
        return Sampler(self._pipes[""], self._schedulers[""], plan)
