"""Pipelines that hand pictures on, such as DeepFloyd-IF's three stages, each with its own methods and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.driver import Driver, accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.pipelines import sizes
from postdiff.lab.pipelines.intake import in_pixels
from postdiff.lab.sampling import errors

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

    Where a stage after the first has no text encoder of its own (DeepFloyd-IF's second), text is encoded once by the
    first, and its embeddings serve both. The generators go on from stage to stage, one a sample.

    Attributes:
        drivers: {stage: its driver}.
        counts: what the last call really ran, all stages together.
        by_stage: {stage: the same of it alone}.
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
            with _named(stage):
                self.drivers[stage.name] = accelerate(stage.pipe, stage.methods)
        self.by_stage: dict[str, Counter[str]] = {}

    @property
    def pipes(self) -> dict[str, Any]:
        """{stage: its pipeline}, by which work is counted apart."""
        return {stage.name: stage.pipe for stage in self.stages}

    @property
    def counts(self) -> Counter[str]:
        """Sums over stages; of what is the most at once, the most."""
        found: Counter[str] = Counter()
        for counts in self.by_stage.values():
            for name, number in counts.items():
                found[name] = max(found[name], number) if name.endswith("at once") else found[name] + number
        return found

    def __call__(
        self, prompt: str | list[str] | None = None, *, generator: Any = None, output_type: str = "pil", **text: Any
    ) -> Any:
        """Run all stages.

        Args:
            prompt: what to draw; may be left out if the embeddings are given.
            generator: one a sample, or one for the batch.
            output_type: of the last stage; between stages pictures stay tensors (N, 3, H, W).
            text: prompt_embeds and negative_prompt_embeds of the first stage, negative_prompt for all.

        Returns:
            The last pipeline's own result.

        Raises:
            UsageError: a method does not fit its stage, or a pipeline refuses its arguments; the stage is named.
        """
        self.by_stage = {}
        embedded = self._embedded(prompt, text)
        result: Any = None
        for place, stage in enumerate(self.stages):
            driver = self.drivers[stage.name]
            dtype = next(driver.network.parameters()).dtype
            call: dict[str, Any] = {"prompt": prompt, **_negative(text)}
            if embedded is not None and self._shares_text(stage):
                call = {name: _cast(value, dtype) for name, value in embedded.items()}
            if place:
                call["image"] = _handed_on(result.images, self.stages[place - 1].pipe, stage.pipe).to(dtype)
            if stage.steps is not None:
                call["num_inference_steps"] = stage.steps
            last = place == len(self.stages) - 1
            call |= {"generator": generator, "output_type": output_type if last else "pt", **stage.arguments}
            if "prompt_embeds" in stage.arguments:
                call.pop("prompt", None)
            with _named(stage, call):
                result = driver(**call)
                if call["output_type"] == "pt":
                    sizes.check_drawn(stage.pipe, result, *(call.get(side) for side in sizes.SIDES))
            self.by_stage[stage.name] = driver.counts
        return result

    def _shares_text(self, stage: Stage) -> bool:
        return stage is self.stages[0] or not _reads(stage.pipe)

    def _embedded(self, prompt: Any, text: dict[str, Any]) -> dict[str, Any] | None:
        """What the first stage makes of the prompt, if another stage needs it or it is given; else None."""
        if "prompt_embeds" in text:
            return dict(text)
        if prompt is None:
            raise UsageError("a cascade needs a prompt, or prompt_embeds and negative_prompt_embeds")
        if all(_reads(stage.pipe) for stage in self.stages[1:]):
            return None
        with _named(self.stages[0]):
            try:
                embeds, negative = self.stages[0].pipe.encode_prompt(prompt, **_negative(text))[:2]
            except TypeError as error:
                raise UsageError(
                    f"{type(self.stages[0].pipe).__name__} cannot encode text for another stage; give that one its own "
                    "text encoder"
                ) from error
            except (RuntimeError, LookupError, AttributeError) as error:
                if errors.out_of_memory(error):
                    raise
                raise UsageError(
                    f"{type(self.stages[0].pipe).__name__} cannot encode the prompt ({type(error).__name__}: {error}); "
                    "see to the files of its text encoder and tokenizer, --debug shows the traceback"
                ) from error
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


@contextmanager
def _named(stage: Stage, call: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Name the stage in whatever its pipeline or a method refuses, or its bare pipeline fails in as well.

    Args:
        stage: whose turn it is.
        call: the arguments, where its pipeline is called.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"stage '{stage.name}': {error}") from error
    except Exception as error:
        told = errors.explained(error, stage.pipe, call, "its model")
        if told is None:
            raise
        raise UsageError(f"stage '{stage.name}': {told}") from error


def _reads(pipe: Any) -> bool:
    return getattr(pipe, "text_encoder", None) is not None


def _negative(text: dict[str, Any]) -> dict[str, Any]:
    return {"negative_prompt": text["negative_prompt"]} if "negative_prompt" in text else {}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) else value


def _handed_on(images: Tensor, source: Any, target: Any) -> Tensor:
    """Pixel stages speak of [-1, 1], all others give and take [0, 1]."""
    if in_pixels(source) and not in_pixels(target):
        return (images / 2 + 0.5).clamp(0, 1)
    return images * 2 - 1 if in_pixels(target) and not in_pixels(source) else images
