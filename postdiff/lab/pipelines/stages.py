"""The stages of a cascade as one row runs them: the model card's values, and what the row sets in each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from postdiff import presets
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.config import schedulers
from postdiff.lab.config.experiment import Row
from postdiff.lab.config.schema import RunConfig, SchedulerConfig, StageConfig
from postdiff.lab.pipelines import intake, models, sizes
from postdiff.lab.pipelines.cards import ModelCard, StageCard

__all__ = ["StageRun", "fitted", "first_laid_over", "resolve"]

# What the lab itself hands to a stage.
GIVEN = ("guidance_scale", "height", "width")
OWN = ("self", "prompt", "image", "generator", "output_type", "num_inference_steps", *GIVEN)


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
    guidance_scale: float | None
    scheduler: SchedulerConfig
    methods: tuple[Any, ...]

    @property
    def solvers(self) -> tuple[SchedulerConfig, SchedulerConfig]:
        """Card's and row's."""
        return self.card.scheduler, self.scheduler

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything that its pipeline is called with, beside text, picture, generators and steps."""
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
            "schedulers": [dataclasses.asdict(solver) for solver in self.solvers],
            "arguments": self.arguments,
            "dtype": self.dtype,
            "pipeline": self.card.pipeline,
            "shared_text": self.card.shared_text,
        }


def fitted(row: Row, card: ModelCard) -> Row:
    """The row as it stands, or without its stages where the command line has put a single pipeline in their place.

    The record says so among what the command line changed, and tables say it from there.

    Raises:
        UsageError: the row itself, or the command line, gives stages to a model without any.
    """
    if not row.config.stages or card.stages:
        return row
    if "model" not in row.changed or "stages" in row.changed:
        raise UsageError(f"stages are for a cascade, and model '{row.config.model}' is one pipeline; leave them out")
    config = dataclasses.replace(row.config, stages={})
    return dataclasses.replace(row, config=config, changed={**row.changed, "stages": {}})


def first_laid_over(config: RunConfig, card: ModelCard) -> RunConfig:
    """The config with the first stage's own entry laid over its steps, guidance, scheduler and methods.

    Raises:
        UsageError: a stage that the model does not have, or a size, which only the card can give.
    """
    if not card.stages:
        return config
    for name in config.stages:
        if name not in card.stages:
            raise unknown(f"stage of model '{config.model}'", name, card.stages)
    for key in ("height", "width"):
        if (value := getattr(config, key)) is not None:
            raise UsageError(f"{key}={value}: each stage of model '{config.model}' has its own size; leave {key} out")
    own = config.stages.get(next(iter(card.stages)), StageConfig())
    names = ("steps", "guidance_scale", "methods", "reference_steps")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(own, name)) is not None}
    if own.scheduler != SchedulerConfig():
        given["scheduler"] = own.scheduler
    return dataclasses.replace(config, **given)


def resolve(config: RunConfig, card: ModelCard) -> tuple[StageRun, ...]:
    """The stages of a row, in order; none if the model is one pipeline. Everything is checked that needs no weights.

    Args:
        config: as `first_laid_over` gives it.
        card: the model card.

    Raises:
        UsageError: a method, solver or argument that a stage does not have, or a pipeline that cannot stand there.
    """
    found = []
    for place, (name, stage) in enumerate(card.stages.items()):
        try:
            found.append(_resolved(name, stage, config, card, first=place == 0))
        except UsageError as error:
            raise UsageError(f"stage '{name}': {error}") from error
    if found and config.step_scores:
        raise UsageError("step_scores=true looks into one run of steps, and a cascade has several; use false")
    return tuple(found)


def _resolved(name: str, stage: StageCard, config: RunConfig, card: ModelCard, first: bool) -> StageRun:
    cls = models.pipeline_class(stage)
    wanted = intake.intake_of(cls)
    intake.check_stage(wanted, first)
    for argument in stage.arguments:
        if argument in OWN or argument not in wanted.accepted:
            raise unknown(f"argument of {wanted.name}", argument, wanted.accepted.difference(OWN))
    for side in sizes.SIDES:
        if getattr(stage, side) is not None and side not in wanted.accepted:
            raise UsageError(
                f"{wanted.name} takes no {side}, since its picture is as large as it says; leave {side} out"
            )
    height, width = sizes.whole(stage.height, stage.width, lambda: sizes.of_card(stage))
    stage = dataclasses.replace(stage, height=height, width=width)
    usual = stage.steps or wanted.usual_steps
    own: RunConfig | StageConfig = config if first else config.stages.get(name, StageConfig())
    for solver in (stage.scheduler, own.scheduler):
        if solver.name is not None:
            schedulers.check(solver.name, solver.options)
    return StageRun(
        name=name,
        card=stage,
        dtype=config.dtype or stage.dtype or card.dtype,
        steps=own.steps or usual,
        reference_steps=own.reference_steps or usual,
        guidance_scale=stage.guidance_scale if own.guidance_scale is None else own.guidance_scale,
        scheduler=own.scheduler,
        methods=tuple(presets.build_methods(own.methods or [])),
    )
