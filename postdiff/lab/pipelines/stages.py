"""The stages of a cascade as one row runs them: the model card's values, and what the row sets in each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from postdiff import presets
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.config import schedulers
from postdiff.lab.config.experiment import Row
from postdiff.lab.config.schedulers import SchedulerConfig
from postdiff.lab.config.schema import RunConfig, StageConfig
from postdiff.lab.pipelines import models, signature, sizes
from postdiff.lab.pipelines.cards import ModelCard, StageCard

__all__ = ["StageRun", "resolve"]


@dataclass(frozen=True)
class StageRun:
    """One stage of one row.

    Attributes:
        name: as the model card calls it.
        card: its pipeline.
        dtype: what it runs in.
        steps: inference steps.
        reference_steps: the same of the reference run.
        guidance_scale: None means the pipeline's default.
        scheduler: laid over the card's.
        methods: its stack, first outermost.
    """

    name: str
    card: StageCard
    dtype: str
    steps: int
    reference_steps: int
    guidance_scale: float | None = None
    scheduler: SchedulerConfig = dataclasses.field(default_factory=SchedulerConfig)
    methods: tuple[Any, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything that its pipeline is called with, beside text, image, generators and steps."""
        given = {"guidance_scale": self.guidance_scale, "height": self.card.height, "width": self.card.width}
        return {**{name: value for name, value in given.items() if value is not None}, **self.card.arguments}

    def reference(self) -> StageRun:
        """The stage in the run that paired metrics compare with."""
        return dataclasses.replace(self, steps=self.reference_steps, methods=())

    def described(self) -> dict[str, Any]:
        """All that decides its part of the pixels, as data."""
        return {
            "steps": self.steps,
            "methods": presets.describe(self.methods),
            "schedulers": [dataclasses.asdict(self.card.scheduler), dataclasses.asdict(self.scheduler)],
            "arguments": self.arguments,
            "dtype": self.dtype,
            "pipeline": self.card.pipeline,
            "shared_text": self.card.shared_text,
        }


def resolve(row: Row, card: ModelCard) -> tuple[Row, tuple[StageRun, ...]]:
    """The row as its model runs it, and the stages in order: none if the model is one pipeline.

    The first stage's own entry is laid over the row's steps, guidance, scheduler and methods. Everything is checked
    that needs no weights. Where the command line has put a single pipeline in the place of a cascade, the stages are
    left out; the record says so among what the command line changed, and tables say it from there.

    Raises:
        UsageError: stages of a model without any; a stage, method, solver or argument that is not there; or a pipeline
            that cannot stand in its place.
    """
    config = row.config
    if not card.stages:
        if not config.stages:
            return row, ()
        if "model" not in row.changed or "stages" in row.changed:
            raise UsageError(f"stages are for a cascade, and model '{config.model}' is one pipeline; leave them out")
        config = dataclasses.replace(config, stages={})
        return dataclasses.replace(row, config=config, changed={**row.changed, "stages": {}}), ()
    for name in config.stages:
        if name not in card.stages:
            raise unknown(f"stage of model '{config.model}'", name, card.stages)
    for key in sizes.SIDES:
        if (value := getattr(config, key)) is not None:
            raise UsageError(f"{key}={value}: each stage of model '{config.model}' has its own size; leave {key} out")
    if config.step_scores:
        raise UsageError("step_scores=true looks into one run of steps, and a cascade has several; use false")
    own = config.stages.get(next(iter(card.stages)), StageConfig())
    names = ("steps", "guidance_scale", "methods", "reference_steps")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(own, name)) is not None}
    if own.scheduler != SchedulerConfig():
        given["scheduler"] = own.scheduler
    config = dataclasses.replace(config, **given)
    found = []
    for place, (name, stage) in enumerate(card.stages.items()):
        dtype = config.dtype or stage.dtype or card.dtype
        entry = config.stages.get(name, StageConfig()) if place else config
        try:
            found.append(_resolved(name, stage, entry, dtype, first=place == 0))
        except UsageError as error:
            raise UsageError(f"stage '{name}': {error}") from error
    return dataclasses.replace(row, config=config), tuple(found)


def _resolved(name: str, card: StageCard, own: RunConfig | StageConfig, dtype: str, *, first: bool) -> StageRun:
    wanted = signature.signature_of(models.pipeline_class(card))
    cls = wanted.name
    if not wanted.prompts:
        raise UsageError(f"{cls} takes no prompt, and every stage of a cascade is told what to generate")
    if "mask_image" in wanted.accepted or wanted.default_frames is not None:
        raise UsageError(f"{cls} takes more than an image, or gives more; use pipelines of single images")
    if first and wanted.image:
        raise UsageError(f"{cls} goes on from an image, and the first stage has none; put another one first")
    if not first and not wanted.image:
        raise UsageError(f"{cls} takes no image to go on from; put it first, or use an upscaler")
    signature.check_arguments(wanted, card.arguments, stage=True)
    for side in sizes.SIDES:
        if getattr(card, side) is not None and side not in wanted.accepted:
            raise UsageError(f"{cls} takes no {side}, since its image is as large as it says; leave {side} out")
    height, width = sizes.whole(card.height, card.width, lambda: sizes.of_card(card))
    for solver in (card.scheduler, own.scheduler):
        if solver.name is not None:
            schedulers.check(solver.name, solver.options)
    usual = card.steps or wanted.default_steps
    return StageRun(
        name=name,
        card=dataclasses.replace(card, height=height, width=width),
        dtype=dtype,
        steps=own.steps or usual,
        reference_steps=own.reference_steps or usual,
        guidance_scale=card.guidance_scale if own.guidance_scale is None else own.guidance_scale,
        scheduler=own.scheduler,
        methods=tuple(presets.build_methods(own.methods or [])),
    )
