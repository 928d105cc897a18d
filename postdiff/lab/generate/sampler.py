"""From samples to pixels: one pipeline, one scheduler, one stack of methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.engine.state import State
from postdiff.lab.config import schedulers
from postdiff.lab.data import conditions
from postdiff.lab.data.samples import Sample, generator
from postdiff.lab.generate import errors
from postdiff.lab.pipelines import random_weights, signature, sizes
from postdiff.lab.pipelines.network_options import NetworkOptions
from postdiff.lab.plan.plan import Plan
from postdiff.methods.base import Method, StepCall

__all__ = ["FiniteLatents", "Sampler", "own_noise"]


class Sampler:
    """Makes the images of a plan.

    Args:
        pipe: the pipeline; other samplers may use it in turn.
        scheduler: the one that it was loaded with.
        plan: what to make.

    Attributes:
        fast: the same pipeline with the plan's methods.
        watch: notes where latents stop being numbers.
        watched: `fast` with that outermost, for the images that are kept.
        in_pixels: whether images come in [-1, 1].
    """

    pipe: Any
    fast: Any
    watched: Any

    def __init__(self, pipe: Any, scheduler: Any, plan: Plan) -> None:
        self.pipe, self.plan, self.watch = pipe, plan, FiniteLatents()
        self.in_pixels, self.signature = signature.in_pixels(pipe), signature.signature_of(type(pipe))
        try:
            self.fast = accelerate(pipe, plan.methods)
            self.watched = accelerate(pipe, [self.watch, *plan.methods])
            self.scheduler = schedulers.layered(scheduler, plan.card.scheduler, plan.config.scheduler)
            signature.check(self.signature, plan.config, plan.data_card)
            self._check()
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
        config, arguments = self.plan.config, self.arguments(samples)
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

    def arguments(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What a call of the pipeline gets.

        Args:
            samples: as for `call`.

        Raises:
            UsageError: an image to begin with cannot be read.
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
                arguments[signature.guidance(self.pipe) if name == "guidance_scale" else name] = value
        if "max_area" in accepted and config.height and config.width:
            arguments["max_area"] = config.height * config.width  # FLUX.1 Kontext would go to a megapixel
        if self.signature.default_frames is not None:
            arguments[signature.FRAMES] = config.frames
        if "use_resolution_binning" in accepted:
            # PixArt would generate at the nearest of its own sizes and shrink the image afterwards.
            arguments["use_resolution_binning"] = False
        return arguments

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """Images (B, 3, H, W), uint8; of a video, those of its frames that are among the samples.

        Raises:
            UsageError: settings that the pipeline refuses, or an image that holds NaN.
        """
        calls = {sample.call: sample for sample in samples}
        result = self.call(list(calls.values()), self.watched)
        made = result.frames if hasattr(result, "frames") else result.images
        made = made.reshape(len(calls), -1, *made.shape[-3:])  # a single image is a video of one frame
        since = self.watch.first_bad(len(calls))
        if self.in_pixels:
            made = made / 2 + 0.5
        rows = {call: row for row, call in enumerate(calls)}
        images = torch.stack([made[rows[sample.call], sample.frame] for sample in samples])
        for sample, image in zip(samples, images, strict=True):
            step = since.get(rows[sample.call])
            if step is not None or not torch.isfinite(image).all():
                where = " in the decoder" if step is None else f" from step {step} on"
                raise UsageError(
                    f"row '{self.plan.name}': image {sample.index} ('{sample.prompt}', seed {sample.seed}) holds "
                    f"NaN or infinity{where}, so no metric of it would mean anything; try dtype=float32"
                )
        return (images * 255).round().clamp(0, 255).to(torch.uint8)

    def _inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What the pipeline starts from: text or classes, and images."""
        if self.signature.classes:
            return {"class_labels": [sample.label for sample in samples], **self.plan.card.arguments}
        found: dict[str, Any] = {"prompt": [sample.prompt for sample in samples], **self.plan.card.arguments}
        if isinstance(negative := found.get("negative_prompt"), str):
            found["negative_prompt"] = [negative for _ in samples]  # some pipelines take one for the first alone
        if self.plan.config.weights == "random":
            found = random_weights.inputs(self.plan.card, self.pipe, samples)
        if self.signature.image and self.plan.data_card.images is not None:
            config, native = self.plan.config, sizes.of_pipeline(self.pipe)
            height, width = config.height or (native and native[0]), config.width or (native and native[1])
            if not height or not width:
                raise UsageError(f"{type(self.pipe).__name__} has no size of its own; give height and width")
            found["image"] = [
                conditions.prepared(sample.image, (height, width), self.plan.data_card.condition)
                for sample in samples
                if sample.image is not None
            ]
            if self.signature.mask:
                found["mask_image"] = [conditions.mask(each.mask, (height, width)) for each in samples if each.mask]
        return found

    def _check(self) -> None:
        """Refuse what only the loaded pipeline shows: classes, a size, frames or steps that it does not have."""
        name, config, network = type(self.pipe).__name__, self.plan.config, getattr(self.pipe, self.fast.family.network)
        classes = getattr(network.config, "num_embeds_ada_norm", None)
        if self.signature.classes and classes is not None:
            for entry in self.plan.entries:
                if entry.label is not None and entry.label >= classes:
                    raise UsageError(
                        f"class {entry.label} ('{entry.prompt}') is none of the {classes} of {name}; use data of its "
                        "own classes"
                    )
        sized = "height" in self.signature.accepted or self.signature.image
        native = None if sized else sizes.of_pipeline(self.pipe)
        # Such a pipeline would pass over the size in silence.
        if native and (config.height not in (None, native[0]) or config.width not in (None, native[1])):
            raise UsageError(f"{name} generates at its own size, {native[0]} x {native[1]}; leave out height and width")
        if self.signature.default_frames is not None and config.frames is None:
            # A card from the hub that does not name its class.
            raise UsageError(f"{name} makes videos; name it under 'pipeline' in the model card")
        # Some solvers would take a million steps without a word, most of them at the same noise.
        trained = self.scheduler.config.get("num_train_timesteps")
        asked = {"steps": config.steps, **({"reference_steps": config.reference_steps} if self.plan.paired else {})}
        for key, steps in asked.items():
            if trained is not None and steps > trained:
                raise UsageError(
                    f"{key}={steps} is more than the {trained} that the model was trained with; use at most that"
                )


class FiniteLatents(Method):
    """Changes nothing; as the outermost method, notes after every step which rows of the latents are finite."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def step(self, forward: StepCall, output: Tensor, timestep: Any, sample: Tensor, state: State) -> Tensor:
        latents = forward(output, timestep, sample)
        # The largest value of a row is NaN or infinite if any is; on a GPU nothing waits for the answer.
        self.found.append(torch.isfinite(latents.detach().float().abs().flatten(1).amax(1)))
        return latents

    def first_bad(self, calls: int) -> dict[int, int]:
        """{row of the call: step, from 0, after which its latents hold NaN or infinity}, and forgets what was noted.

        Args:
            calls: rows of the call; guidance may have doubled them.
        """
        noted, self.found = self.found, []
        bad: dict[int, int] = {}
        for step, rows in enumerate(noted):
            for row in torch.nonzero(~rows).flatten().tolist():
                bad.setdefault(row % calls, step)
        return bad


def own_noise(pipe: Any, generators: Sequence[torch.Generator]) -> AbstractContextManager[None]:
    """For the length of one call, let a random solver draw from the samples' generators.

    DiT's pipeline hands on none, so that its DDPM solver would draw from the global generator, and images would
    depend on what else was drawn. Video pipelines hand on one a video, where their solver steps frames.

    Args:
        pipe: the pipeline.
        generators: one a sample.
    """
    kind = family_of(pipe).step_rows
    signature = inspect.signature(pipe.scheduler.step)
    if kind == "samples" or "generator" not in signature.parameters:
        return nullcontext()

    def around(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        copies = len(arguments["sample"]) // len(generators)
        if kind == "doubled":  # the halves of guidance, one after the other
            rows = [one for _ in range(copies) for one in generators]
        else:
            rows = [one for one in generators for _ in range(copies)]
        return step(**{**arguments, "generator": rows})

    return intercept(pipe.scheduler, "step", around)
