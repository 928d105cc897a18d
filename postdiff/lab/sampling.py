"""From samples to pixels: one pipeline, one scheduler, one stack of methods."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab import data, models, schedulers
from postdiff.lab.job import Job

__all__ = ["Pipelines", "Sampler"]


class Pipelines:
    """The pipeline loaded last is kept, since neighbouring rows mostly share it."""

    def __init__(self) -> None:
        self._key: tuple[str | None, ...] | None = None
        self._pipe: Any = None
        self._scheduler: Any = None

    def sampler(self, job: Job) -> Sampler:
        """A sampler for the job, loading its pipeline if it is not the one at hand."""
        key = (job.card.pipeline, job.checkpoint, job.config.dtype, job.config.device)
        if key != self._key:
            self._key = self._pipe = None  # the old one first: two may not fit in memory
            self._pipe = models.load(job.card, str(job.config.dtype), job.config.device)
            self._key, self._scheduler = key, self._pipe.scheduler
        return Sampler(self._pipe, self._scheduler, job)


class Sampler:
    """Makes the pictures of a job.

    Args:
        pipe: the pipeline; other samplers may use it in turn.
        scheduler: the one that it was loaded with.
        job: what to make.

    Attributes:
        fast: the same pipeline with the job's methods.
    """

    def __init__(self, pipe: Any, scheduler: Any, job: Job) -> None:
        self.pipe, self.job = pipe, job
        try:
            self.fast = accelerate(pipe, job.methods)
        except UsageError as error:
            raise UsageError(f"row '{job.name}': {error}") from error
        self.scheduler = schedulers.layered(scheduler, job.card.scheduler, job.config.scheduler)
        self.accepted = set(inspect.signature(type(pipe).__call__).parameters)
        if "prompt" not in self.accepted:
            raise UsageError(f"{type(pipe).__name__} takes no prompt; experiments need a text-to-image model")

    def call(self, samples: Sequence[data.Sample], driver: Any = None) -> Any:
        """One call of the pipeline, its result as it is (pictures as floats in [0, 1]).

        Args:
            samples: one picture each.
            driver: called in the place of `fast`, for instance one that observes as well.

        Raises:
            UsageError: settings that the pipeline refuses.
        """
        config = self.job.config
        arguments: dict[str, Any] = {
            "prompt": [sample.prompt for sample in samples],
            "generator": [data.generator(sample) for sample in samples],
            "num_inference_steps": config.steps,
            "output_type": "pt",
        }
        for name in ("guidance_scale", "height", "width"):
            if (value := getattr(config, name)) is not None and name in self.accepted:
                arguments[name] = value
        if "use_resolution_binning" in self.accepted:
            # PixArt would draw at the nearest of its own sizes and shrink the picture afterwards.
            arguments["use_resolution_binning"] = False
        self.pipe.scheduler = self.scheduler
        try:
            return (driver or self.fast)(**arguments)
        except UsageError as error:
            raise UsageError(f"row '{self.job.name}': {error}") from error
        except ValueError as error:
            raise UsageError(f"row '{self.job.name}': {type(self.pipe).__name__} refuses: {error}") from error

    def __call__(self, samples: Sequence[data.Sample]) -> Tensor:
        """Pictures (B, 3, H, W), uint8.

        Raises:
            UsageError: settings that the pipeline refuses, or a picture that holds NaN.
        """
        images = self.call(samples).images
        for sample, image in zip(samples, images, strict=True):
            if not torch.isfinite(image).all():
                raise UsageError(
                    f"row '{self.job.name}': picture {sample.index} ('{sample.prompt}', seed {sample.seed}) holds "
                    "NaN, so no metric of it would mean anything; try dtype=float32"
                )
        return (images * 255).round().clamp(0, 255).to(torch.uint8)
