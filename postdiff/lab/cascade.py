"""Pipelines that hand pictures on, such as DeepFloyd-IF's three stages, each with its own methods and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from postdiff.engine.driver import Driver, accelerate
from postdiff.engine.errors import UsageError

__all__ = ["Cascade", "Stage"]


@dataclass(frozen=True)
class Stage:
    """One pipeline of a cascade.

    Attributes:
        name: what errors and counts call it.
        pipe: the pipeline; the first makes a picture, the others take one as `image`.
        steps: inference steps; the pipeline's own default if None.
        methods: its stack.
        arguments: further arguments of its call, such as guidance_scale or noise_level.
    """

    name: str
    pipe: Any
    steps: int | None = None
    methods: Sequence[Any] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Cascade:
    """Stages one after the other; call it like a pipeline.

    Text is encoded once by the first stage, and its embeddings serve every stage that has no text encoder of its own
    (DeepFloyd-IF's second). The generators go on from stage to stage, one a sample.

    Attributes:
        drivers: {stage: its driver}.
        counts: {stage: what the last call really ran}.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages:
            raise UsageError("a cascade needs at least one stage")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise UsageError(f"stages of a cascade must have different names; got {', '.join(names)}")
        self.stages = tuple(stages)
        self.drivers: dict[str, Driver] = {}
        for stage in stages:
            try:
                self.drivers[stage.name] = accelerate(stage.pipe, stage.methods)
            except UsageError as error:
                raise UsageError(f"stage '{stage.name}': {error}") from error
        self.counts: dict[str, Counter[str]] = {}

    def __call__(
        self, prompt: str | list[str] | None = None, *, generator: Any = None, output_type: str = "pil", **text: Any
    ) -> Any:
        """Run all stages.

        Args:
            prompt: what to draw; may be left out if the embeddings are given.
            generator: one a sample, or one for the batch.
            output_type: of the last stage; between stages pictures stay tensors (N, 3, H, W) in [-1, 1].
            text: prompt_embeds and negative_prompt_embeds of the first stage, negative_prompt for all.

        Returns:
            The last pipeline's own result.

        Raises:
            UsageError: a method does not fit its stage; the stage is named.
        """
        self.counts = {}
        embedded = self._embedded(prompt, text)
        result: Any = None
        for place, stage in enumerate(self.stages):
            last = place == len(self.stages) - 1
            call: dict[str, Any] = dict(embedded) if self._shares_text(stage) else {"prompt": prompt, **_negative(text)}
            if result is not None:
                call["image"] = _handed_on(result.images, stage.pipe)
            if stage.steps is not None:
                call["num_inference_steps"] = stage.steps
            call |= {"generator": generator, "output_type": output_type if last else "pt", **stage.arguments}
            if "prompt_embeds" in stage.arguments:
                call.pop("prompt", None)
            driver = self.drivers[stage.name]
            try:
                result = driver(**call)
            except UsageError as error:
                raise UsageError(f"stage '{stage.name}': {error}") from error
            self.counts[stage.name] = driver.counts
        return result

    def _shares_text(self, stage: Stage) -> bool:
        return stage is self.stages[0] or getattr(stage.pipe, "text_encoder", None) is None

    def _embedded(self, prompt: Any, text: dict[str, Any]) -> dict[str, Any]:
        if "prompt_embeds" in text:
            return dict(text)
        if prompt is None:
            raise UsageError("a cascade needs a prompt, or prompt_embeds and negative_prompt_embeds")
        embeds, negative = self.stages[0].pipe.encode_prompt(prompt, **_negative(text))[:2]
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


def _negative(text: dict[str, Any]) -> dict[str, Any]:
    return {"negative_prompt": text["negative_prompt"]} if "negative_prompt" in text else {}


def _handed_on(images: Tensor, pipe: Any) -> Tensor:
    """Pixel stages speak of [-1, 1]; a pipeline with an image processor expects [0, 1] and rescales by itself."""
    return (images / 2 + 0.5).clamp(0, 1) if hasattr(pipe, "image_processor") else images
