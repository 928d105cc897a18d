"""Pipelines that hand images on, such as DeepFloyd-IF's three stages, each with its own methods and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from postdiff.engine.driver import Driver, accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schedulers
from postdiff.lab.data.samples import Sample, generator
from postdiff.lab.generate import errors
from postdiff.lab.generate.sampler import FiniteLatents, Sampler, own_noise
from postdiff.lab.pipelines import random_weights, sizes
from postdiff.lab.pipelines.network_options import NetworkOptions
from postdiff.lab.pipelines.signature import in_pixels
from postdiff.lab.pipelines.stages import StageRun
from postdiff.lab.plan.plan import Plan

__all__ = ["Cascade", "CascadeSampler"]


class Cascade:
    """Stages one after the other; call it like a pipeline.

    Where a stage after the first has no text encoder of its own (DeepFloyd-IF's second), text is encoded once by the
    first, and its embeddings serve both. The generators go on from stage to stage, one a sample.

    Args:
        stages: in order; the first makes an image, the others take one as `image`.
        pipes: {stage: its pipeline}, by which work is counted apart.
        outermost: methods around each stage's own.

    Attributes:
        drivers: {stage: its driver}.
        by_stage: {stage: what it really ran in the last call}.
    """

    def __init__(self, stages: Sequence[StageRun], pipes: Mapping[str, Any], outermost: Sequence[Any] = ()) -> None:
        self.stages, self.pipes = tuple(stages), dict(pipes)
        self.drivers: dict[str, Driver] = {}
        for stage in stages:
            with _named(stage.name, pipes[stage.name]):
                self.drivers[stage.name] = accelerate(pipes[stage.name], [*outermost, *stage.methods])
        self.by_stage: dict[str, Counter[str]] = {}

    @property
    def counts(self) -> Counter[str]:
        """What the last call really ran: sums over stages; of what is the most at once, the most."""
        found: Counter[str] = Counter()
        for counts in self.by_stage.values():
            for name, number in counts.items():
                found[name] = max(found[name], number) if name.endswith("at once") else found[name] + number
        return found

    def __call__(
        self, prompt: list[str], *, generator: Any, encoded: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Any:
        """Run all stages.

        Args:
            prompt: one a sample.
            generator: one a sample, or one for the batch.
            encoded: {stage: arguments in the place of its prompts}, for stages without any text encoder.

        Returns:
            The last pipeline's own result; its images are tensors (N, 3, H, W), as they are between stages.

        Raises:
            UsageError: a method does not fit its stage, or a pipeline refuses its arguments; the stage is named.
        """
        self.by_stage = {}
        first = self.stages[0].name
        wordless = {name for name, pipe in self.pipes.items() if not _encodes_text(pipe)}
        embeddings = self._encoded(prompt) if wordless and encoded is None else {}
        before: Any = None
        result: Any = None
        halfway = False
        for stage in self.stages:
            pipe, driver = self.pipes[stage.name], self.drivers[stage.name]
            dtype = next(driver.network.parameters()).dtype
            call: dict[str, Any] = {"prompt": prompt}
            if embeddings and stage.name in {first, *wordless}:
                call = {name: value.to(dtype) for name, value in embeddings.items()}
            if encoded is not None:
                call = dict(encoded[stage.name])
            if before is not None:
                call["image"] = (result.images if halfway else _handed_on(result.images, before, pipe)).to(dtype)
            call |= {"num_inference_steps": stage.steps, "generator": generator, **stage.arguments}
            # What is noisy still is handed on as it is: latents of SDXL base for its refiner.
            halfway = "denoising_end" in stage.arguments and stage is not self.stages[-1]
            call["output_type"] = "latent" if halfway else call.get("output_type", "pt")
            with _named(stage.name, pipe, call):
                result = driver(**call)
                if call["output_type"] == "pt":
                    sizes.check_generated(pipe, result, call.get("height"), call.get("width"))
            self.by_stage[stage.name], before = driver.counts, pipe
        return result

    def _encoded(self, prompt: list[str]) -> dict[str, Tensor]:
        """What the first stage makes of the prompts, for itself and for stages without a text encoder."""
        name = self.stages[0].name
        pipe = self.pipes[name]
        with _named(name, pipe, {"prompt": prompt}):
            try:
                embeds, negative = pipe.encode_prompt(prompt)
            except (TypeError, ValueError, AttributeError) as error:
                raise UsageError(
                    f"{type(pipe).__name__} cannot encode text for another stage; give that one its own text encoder"
                ) from error
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


class CascadeSampler(Sampler):
    """Makes the images of a plan whose model has stages.

    Args:
        pipes: {stage: its pipeline}, in order; other samplers may use them in turn.
        loaded: {stage: the scheduler that its pipeline was loaded with}.
        plan: what to make.

    Attributes:
        pipe: the cascade; `pipe.pipes` are its pipelines.
        fast: the same, with `counts` of the last call.
    """

    def __init__(self, pipes: Mapping[str, Any], loaded: Mapping[str, Any], plan: Plan) -> None:
        self.plan, self.watch = plan, FiniteLatents()
        self.in_pixels = in_pixels(pipes[plan.stages[-1].name])
        try:
            self.pipe = self.fast = Cascade(plan.stages, pipes)
            self.watched = Cascade(plan.stages, pipes, [self.watch])  # one for all stages: steps are numbered through
            self.stage_options = {name: NetworkOptions(pipe, plan.config.network) for name, pipe in pipes.items()}
            self.schedulers = {
                stage.name: schedulers.layered(loaded[stage.name], stage.card.scheduler, stage.scheduler)
                for stage in plan.stages
            }
        except UsageError as error:
            raise UsageError(f"row '{plan.name}': {error}") from error

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
                return chain([sample.prompt for sample in samples], generator=generators, **self._in_place(samples))
        except UsageError as error:
            raise UsageError(f"row '{self.plan.name}': {error}") from error

    def _in_place(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """With random weights, what stands for encoded prompts in each stage."""
        if self.plan.config.weights != "random":
            return {}
        pipes = self.pipe.pipes
        of = {one.name: random_weights.inputs(one.card, pipes[one.name], samples) for one in self.plan.stages}
        return {"encoded": of}


def _encodes_text(pipe: Any) -> bool:
    """Whether it has any text encoder; SDXL's refiner has the second one alone."""
    return any(getattr(pipe, name, None) is not None for name in ("text_encoder", "text_encoder_2"))


def _handed_on(image: Tensor, before: Any, pipe: Any) -> Tensor:
    """One stage's image as the next one takes it: pixel stages speak of [-1, 1], all others of [0, 1]."""
    if in_pixels(before) and not in_pixels(pipe):
        return (image / 2 + 0.5).clamp(0, 1)
    return image * 2 - 1 if in_pixels(pipe) and not in_pixels(before) else image


@contextmanager
def _named(stage: str, pipe: Any, call: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Name the stage in whatever its pipeline or a method refuses, or its bare pipeline fails in as well.

    Args:
        stage: whose turn it is.
        pipe: its pipeline.
        call: the arguments, where the pipeline is called.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"stage '{stage}': {error}") from error
    except Exception as error:
        message = errors.explained(error, pipe, call, "its model")
        if message is None:
            raise
        raise UsageError(f"stage '{stage}': {message}") from error
