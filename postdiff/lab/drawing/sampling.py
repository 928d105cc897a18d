"""The sampler of a row, around pipelines that neighbouring rows share."""

from __future__ import annotations

from typing import Any

from postdiff.lab.drawing.cascade_sampler import CascadeSampler
from postdiff.lab.drawing.sampler import Sampler
from postdiff.lab.job import Job
from postdiff.lab.network import offloading
from postdiff.lab.pipelines import loading, models, random_weights

__all__ = ["Pipelines", "Sampler"]


class Pipelines:
    """What was loaded last is kept, since neighbouring rows mostly share it: a pipeline, or the stages of a cascade."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._pipes: dict[str, Any] = {}
        self._schedulers: dict[str, Any] = {}

    def sampler(self, job: Job) -> Sampler:
        """A sampler for the job, loading its pipeline if it is not the one at hand."""
        wanted: dict[str, tuple[models.PipelineCard, str]] = {one.name: (one.card, one.dtype) for one in job.stages}
        wanted = wanted or {"": (job.card, str(job.config.dtype))}
        classes = [(name, card.pipeline, dtype) for name, (card, dtype) in wanted.items()]
        device, offload = job.config.device, job.config.network.offload
        key = (job.checkpoint, device, offload, *classes)
        if key != self._key:
            self._key, self._pipes = None, {}  # the old one first: two may not fit in memory
            load = random_weights.load if job.config.weights == "random" else models.load
            for name, (card, dtype) in wanted.items():
                with loading.complete(job.config.model):
                    self._pipes[name] = load(card, dtype, offloading.starts_on(offload, device))
                offloading.place(self._pipes[name], offload, device)
            self._key, self._schedulers = key, {name: pipe.scheduler for name, pipe in self._pipes.items()}
        if job.stages:
            return CascadeSampler(self._pipes, self._schedulers, job)
        return Sampler(self._pipes[""], self._schedulers[""], job)
