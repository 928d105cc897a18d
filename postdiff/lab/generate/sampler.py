"""From samples to pixels: one pipeline, one scheduler, one stack of methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.lab.data import conditions
from postdiff.lab.data.samples import Sample, generator
from postdiff.lab.generate import errors
from postdiff.lab.generate.finite import FiniteLatents
from postdiff.lab.generate.noise import own_noise
from postdiff.lab.pipelines import random_weights, signature, sizes
from postdiff.lab.pipelines.network_options import NetworkOptions
from postdiff.lab.plan.plan import Plan

__all__ = ["Sampler"]


class Sampler:
    """Makes the images of a plan.

    Args:
        pipe: the pipeline; other samplers may use it in turn.
        scheduler: the one that it was loaded with.
        plan: what to make.

    Attributes:
        fast: the same pipeline with the plan's methods.
        watch: notes where latents stop being numbers; None if nobody does.
        watched: `fast` with that outermost, for the images that are kept.
    """

    watch: FiniteLatents | None = None
    watched: Any = None
    pipe: Any
    fast: Any

    def __init__(self, pipe: Any, scheduler: Any, plan: Plan) -> None:
        self.pipe, self.plan = pipe, plan
        try:
            self.fast = accelerate(pipe, plan.methods)
            self.watch = FiniteLatents()
            self.watched = accelerate(pipe, [self.watch, *plan.methods])
        except UsageError as error:
            raise UsageError(f"row '{plan.name}': {error}") from error
        self.scheduler = schedulers.layered(scheduler, plan.card.scheduler, plan.config.scheduler)
        self.signature = signature.signature_of(type(pipe))
        try:
            signature.check(self.signature, plan.config, plan.data_card)
            self._check_classes()
            self._check_size()
            self._check_frames()
            self._check_steps()
            self.options = NetworkOptions(pipe, plan.config.network)
        except UsageError as error:
            raise UsageError(f"row '{plan.name}': {error}") from error

    def call(self, samples: Sequence[Sample], driver: Any = None) -> Any:
        """One call of the pipeline, its result as it is (images as floats in [0, 1]; [-1, 1] if it works in pixels).

        Args:
            samples: one row of the call each: an image, or a whole video whichever of its frames is given.
            driver: called in the place of `fast`, for instance one that observes as well.

        Raises:
            UsageError: settings that the pipeline refuses, or an image to begin with that cannot be read.
        """
        config, accepted = self.plan.config, self.signature.accepted
        arguments: dict[str, Any] = {
            "generator": [generator(sample) for sample in samples],
            "num_inference_steps": config.steps,
            "output_type": "pt",
            **self._inputs(samples),
        }
        for name in ("guidance_scale", "height", "width", "strength"):
            if (value := getattr(config, name)) is not None and name in accepted:
                arguments[name] = value
        if self.signature.default_frames is not None:
            arguments[signature.FRAMES] = config.frames
        if "use_resolution_binning" in accepted:
            # PixArt would generate at the nearest of its own sizes and shrink the image afterwards.
            arguments["use_resolution_binning"] = False
        self.pipe.scheduler = self.scheduler
        try:
            driver = driver or self.fast
            with own_noise(self.pipe, arguments["generator"]), self.options.around(driver):
                made = driver(**arguments)
            if arguments["output_type"] == "pt":
                frames = None if self.signature.default_frames is None else config.frames
                sizes.check_generated(self.pipe, made, config.height, config.width, frames)
            return made
        except UsageError as error:
            raise UsageError(f"row '{self.plan.name}': {error}") from error
        except Exception as error:
            message = errors.explained(error, self.pipe, arguments, f"model '{config.model}'")
            if message is None:
                raise
            raise UsageError(f"row '{self.plan.name}': {message}") from error

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """Images (B, 3, H, W), uint8; of a video, those of its frames that are among the samples.

        Raises:
            UsageError: settings that the pipeline refuses, or an image that holds NaN.
        """
        calls = {sample.call: sample for sample in samples}
        made = _images(self.call(list(calls.values()), self.watched), len(calls))
        since = {} if self.watch is None else self.watch.first_bad(len(calls))
        if self.in_pixels:
            made = made / 2 + 0.5
        rows = {call: row for row, call in enumerate(calls)}
        images = torch.stack([made[rows[sample.call], sample.frame] for sample in samples])
        for sample, image in zip(samples, images, strict=True):
            step = since.get(rows[sample.call])
            if step is not None or not torch.isfinite(image).all():
                where = "" if self.watch is None else " in the decoder" if step is None else f" from step {step} on"
                raise UsageError(
                    f"row '{self.plan.name}': image {sample.index} ('{sample.prompt}', seed {sample.seed}) holds "
                    f"NaN or infinity{where}, so no metric of it would mean anything; try dtype=float32"
                )
        return (images * 255).round().clamp(0, 255).to(torch.uint8)

    @property
    def in_pixels(self) -> bool:
        """Whether images come in [-1, 1]."""
        return signature.in_pixels(self.pipe)

    def _inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What the pipeline starts from: text or classes, and images."""
        if self.signature.classes:
            return {"class_labels": [sample.label for sample in samples]}
        found: dict[str, Any] = {"prompt": [sample.prompt for sample in samples]}
        if self.plan.config.weights == "random":
            found = random_weights.inputs(self.plan.card, self.pipe, samples)
        if self.signature.image:
            size, condition = self._image_size(), self.plan.data_card.condition
            found["image"] = [
                conditions.prepared(sample.image, size, condition) for sample in samples if sample.image is not None
            ]
        return found

    def _image_size(self) -> tuple[int, int]:
        config, native = self.plan.config, sizes.of_pipeline(self.pipe)
        height, width = config.height or (native and native[0]), config.width or (native and native[1])
        if not height or not width:
            raise UsageError(f"{type(self.pipe).__name__} has no size of its own; give height and width")
        return height, width

    def _check_size(self) -> None:
        """Refuse a size that would be passed over in silence."""
        wanted = (self.plan.config.height, self.plan.config.width)
        if "height" in self.signature.accepted or self.signature.image:
            return
        native = sizes.of_pipeline(self.pipe)
        if native is not None and any(asked not in (None, own) for asked, own in zip(wanted, native, strict=True)):
            raise UsageError(
                f"{type(self.pipe).__name__} generates at its own size, {native[0]} x {native[1]}; leave out height "
                "and "
                "width"
            )

    def _check_steps(self) -> None:
        """Some solvers would take a million steps without a word, most of them at the same noise."""
        known, config = self.scheduler.config.get("num_train_timesteps"), self.plan.config
        asked = {"steps": config.steps, **({"reference_steps": config.reference_steps} if self.plan.paired else {})}
        for name, steps in asked.items():
            if known is not None and steps > known:
                raise UsageError(
                    f"{name}={steps} is more than the {known} that the model was trained with; use at most that"
                )

    def _check_frames(self) -> None:
        """A card from the hub that does not name its class says too late that it makes videos."""
        if self.signature.default_frames is not None and self.plan.config.frames is None:
            raise UsageError(f"{type(self.pipe).__name__} makes videos; name it under 'pipeline' in the model card")

    def _check_classes(self) -> None:
        known = getattr(getattr(self.pipe, self.fast.family.network).config, "num_embeds_ada_norm", None)
        if not self.signature.classes or known is None:
            return
        for entry in self.plan.entries:
            if entry.label is not None and entry.label >= known:
                raise UsageError(
                    f"class {entry.label} ('{entry.prompt}') is none of the {known} of "
                    f"{type(self.pipe).__name__}; use data of its own classes"
                )


def _images(result: Any, calls: int) -> Tensor:
    """Images (calls, frames, 3, H, W) of a pipeline's result; frames is 1 but for videos."""
    found = result.frames if hasattr(result, "frames") else result.images
    return found.reshape(calls, -1, *found.shape[-3:])
