"""A row as a plan: names resolved, everything checked that needs no weights, and two identities.

`run_id` is of the record: of all that is generated and measured. `images_id` is of the images alone. Each is a hash of
settings and of the code of the row's own methods, so rows of equal settings share their images in any experiment.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from postdiff import catalog, metrics, model_files, presets
from postdiff.engine.errors import UsageError
from postdiff.lab import code_hash
from postdiff.lab.config import metric_specs, schedulers
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.metric_specs import PLACES
from postdiff.lab.config.schema import NetworkConfig, RunConfig, digest
from postdiff.lab.data import data_cards
from postdiff.lab.data.data_cards import DataCard, Prompt
from postdiff.lab.data.samples import Sample, batches, samples
from postdiff.lab.metrics import chosen
from postdiff.lab.pipelines import cards, models, network_options, random_weights, stages
from postdiff.lab.pipelines.cards import ModelCard
from postdiff.lab.pipelines.stages import StageRun
from postdiff.lab.plan import defaults

__all__ = ["Plan", "plan_rows", "same_weights"]


@dataclass(frozen=True)
class Plan:
    """A row that can be run.

    Attributes:
        experiment: its name.
        row: name, label and reported values.
        config: the row's config with everything filled in that the cards decide.
        card: the model card.
        data_card: the data card.
        methods: instances, first outermost; of a cascade, the first stage's.
        entries: the lines of the data card that are used.
        stages: of a cascade, all of them in order; empty if the model is one pipeline.
        source: what decides the pixels beside steps, methods, stages and network options: weights, all prompts of the
            data, solvers, size, guidance, dtype, conditions.
        measured_with: hashes of the files that the metrics rest on.
    """

    experiment: str
    row: Row
    config: RunConfig
    card: ModelCard
    data_card: DataCard
    methods: tuple[Any, ...]
    entries: tuple[Prompt, ...]
    stages: tuple[StageRun, ...]
    source: dict[str, Any]
    measured_with: list[str | None]

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.row.name

    @property
    def checkpoint(self) -> str:
        """The weights, or "random:" and the structure that takes random ones."""
        return str(self.source["checkpoint"])

    @cached_property
    def samples(self) -> list[Sample]:
        """Every line with every seed; of a video, every frame."""
        return samples(self.entries, self.config.seeds, self.config.frames or 1)

    @cached_property
    def batches(self) -> list[list[Sample]]:
        """The samples of each pipeline call, whatever is stored already and whoever generates."""
        return batches(self.samples, self.config.batch_size)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics to measure."""
        return metric_specs.names(self.config.metrics)

    @property
    def paired(self) -> bool:
        """Whether a metric needs the reference images."""
        return any("references" in metrics.facts(name).needs for name in self.metrics)

    @property
    def step_metric(self) -> str | None:
        """The metric that scores every step, if `step_scores` asks for it: one of image and prompt alone."""
        return next(chosen.step_metrics(self.metrics), None) if self.config.step_scores else None

    @property
    def variant(self) -> tuple[Any, ...]:
        """What tells apart pipelines that are loaded from the same weights."""
        return (self.config.dtype, self.config.network.offload)

    def reference(self) -> Plan:
        """The plan of the reference images: no methods, more steps; the same one each time."""
        return self._reference

    @cached_property
    def _reference(self) -> Plan:
        # A model too large for the GPU is so without methods too.
        network = NetworkConfig(offload=self.config.network.offload)
        config = dataclasses.replace(self.config, methods=[], steps=self.config.reference_steps, network=network)
        source = self.source
        if (solver := config.reference_scheduler) is not None:
            config = dataclasses.replace(config, scheduler=solver)
            source = {**source, "schedulers": [dataclasses.asdict(self.card.scheduler), dataclasses.asdict(solver)]}
            source |= code_hash.added("schedulers", [solver.name])
        row = Row("reference", f"{config.steps}-step reference", config, {}, {})
        alone = tuple(stage.reference() for stage in self.stages)
        return dataclasses.replace(self, row=row, config=config, methods=(), stages=alone, source=source)

    def resolved(self) -> dict[str, Any]:
        """The resolved config as a record keeps it, methods with every option spelt out."""
        chain = {stage.name: stage.described() for stage in self.stages}
        own = [entry.seed for entry in self.entries if entry.seed is not None]
        seeded = {"line_seeds": digest(own)} if own else {}
        return {**dataclasses.asdict(self.config), "methods": presets.describe(self.methods), "stages": chain, **seeded}

    @cached_property
    def images_id(self) -> str:
        """Of all that decides the pixels, but for what the other images of a batch are."""
        # How many are generated at once moves the last bits of each image.
        at_once = {"batch_size": self.config.batch_size} if self.config.batch_size != RunConfig.batch_size else {}
        stacks = (self.methods, *(stage.methods for stage in self.stages))
        classes = frozenset(type(method) for stack in stacks for method in stack)
        # Without methods the images are the bare pipeline's, whatever our code.
        bare = not classes and not network_options.described(self.config.network)
        return digest({**self._settings, **at_once, "code": None if bare else code_hash.code_hash(classes)})

    @cached_property
    def references_id(self) -> str:
        """The same of the reference images."""
        return self.reference().images_id

    @cached_property
    def run_id(self) -> str:
        """Of the quality record: of all that is generated and measured."""
        config = self.config
        return digest(
            {
                **self._settings,
                **{name: getattr(config, name) for name in ("seeds", "batch_size", "reference_steps", "step_scores")},
                "metrics": [metric_specs.described(spec, PLACES) for spec in config.metrics or ()],
                **({"bootstrap": config.bootstrap} if config.bootstrap else {}),
                **({} if config.reference_scheduler is None else {"references": self.references_id}),
                "used": self.prompts_hash,
                "measured_with": self.measured_with,
            }
        )

    @cached_property
    def speed_id(self) -> str:
        """Of the speed record."""
        options = network_options.described(self.config.network, times=True)
        return digest({**self._settings, **options, "bench": self.config.bench.described()})

    @cached_property
    def content_id(self) -> str:
        """Of settings, prompts and seeds, whatever is measured of them and with whatever code."""
        return digest({**self._settings, "seeds": self.config.seeds, "used": self.prompts_hash})

    @cached_property
    def prompts_hash(self) -> str:
        """Of the prompts used, and of their own seeds where they have any."""
        return _prompts_hash(self.entries)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        chain = [[stage.name, stage.described()] for stage in self.stages]
        return {
            **self.source,
            "steps": self.config.steps,
            "methods": presets.describe(self.methods),
            **({"stages": chain} if chain else {}),
            **network_options.described(self.config.network),
        }


def plan_rows(experiment: Experiment, images: bool = False) -> list[Plan]:
    """Plan all rows, before any weight is loaded.

    Args:
        experiment: the rows.
        images: whether their images are wanted, so that none may have random weights.

    Raises:
        UsageError: the first mistake found, with the row it is in.
    """
    plans = []
    # Rows mostly share their cards, and reading one takes longer than all else here.
    model_card, data_card = functools.cache(cards.card), functools.cache(data_cards.card)
    identity = functools.cache(lambda name, random: _identity(model_card(name), name, random))
    entries = functools.cache(lambda name: data_cards.read(data_card(name)))
    for row in experiment.rows:
        try:
            if images and row.config.weights == "random":
                raise UsageError(
                    "weights=random is for speed alone, since its images mean nothing; use "
                    f"'postdiff bench {experiment.name}', or weights=trained"
                )
            card, data = model_card(row.config.model), data_card(row.config.data)
            model = identity(row.config.model, row.config.weights == "random")
            plans.append(_plan(experiment.name, row, card, data, entries(row.config.data), model))
        except UsageError as error:
            raise UsageError(f"row '{row.name}': {error}") from error
    return plans


def _plan(
    experiment: str, row: Row, card: ModelCard, data_card: DataCard, available: Sequence[Prompt], model: dict[str, str]
) -> Plan:
    row, chain = stages.resolve(row, card)
    config = row.config
    methods = tuple(presets.build_methods(config.methods))
    solvers = [card.scheduler, config.scheduler]
    for solver in (*solvers, *filter(None, [config.reference_scheduler])):
        if solver.name is not None:
            schedulers.check(solver.name, solver.options)
    solvers += [solver for stage in chain for solver in (stage.card.scheduler, stage.scheduler)]
    config = defaults.fill(config, card, data_card, available, chain)
    for embedding in card.embeddings:
        if embedding.token is not None and not any(embedding.token in entry.prompt for entry in available):
            raise UsageError(f"no prompt holds the word '{embedding.token}' that the model card brings; use others")
    source: dict[str, Any] = {
        **model,
        "prompts": _prompts_hash(available),
        "schedulers": [dataclasses.asdict(card.scheduler), dataclasses.asdict(config.scheduler)],
        **code_hash.added("schedulers", (solver.name for solver in solvers)),
        **{name: getattr(config, name) for name in ("guidance_scale", "height", "width", "dtype")},
        **{name: value for name in ("strength", "frames") if (value := getattr(config, name)) is not None},
    }
    if data_card.images is not None:
        files = [model_files.sha256(entry.image) for entry in available if entry.image is not None]
        # The key is part of ids that are older than its name.
        source["pictures"] = [digest(files), dataclasses.asdict(data_card.condition)]
        source |= code_hash.added("conditions", [data_card.condition.name])
    if data_card.masks is not None:
        source["masks"] = digest([model_files.sha256(entry.mask) for entry in available if entry.mask is not None])
    if card.arguments:
        source["arguments"] = card.arguments
    if data_card.classes is not None:
        source["classes"] = digest([entry.label for entry in available])
    row, entries = dataclasses.replace(row, config=config), tuple(available[: config.count])
    measured_with = chosen.measured_with(config, card, data_card)
    return Plan(experiment, row, config, card, data_card, methods, entries, chain, source, measured_with)


def _identity(card: ModelCard, name: str, random: bool) -> dict[str, str]:
    """What a model adds to an identity: its weights and configs, and its class where that is not what they say."""
    if random:
        return random_weights.identity(card, name)
    found = {"checkpoint": models.checkpoint(card)}
    # Of a cascade the stages say it; shipped cards of one repository differ in more than their classes.
    shipped = name in catalog.names("models") and catalog.shipped(catalog.path("models", name))
    if not card.stages and not shipped and (other := models.other_class(card)) is not None:
        found["pipeline"] = other
    return found


def _prompts_hash(entries: Sequence[Prompt]) -> str:
    """Of prompts alone where no line has a seed of its own."""
    return digest([entry.prompt if entry.seed is None else [entry.prompt, entry.seed] for entry in entries])


def same_weights(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans in groups that share pipeline class, weights, device and where weights wait; dtypes may differ.

    Groups and plans keep the order of appearance.
    """
    groups: dict[tuple[Any, ...], list[Plan]] = {}
    for plan in plans:
        key = (plan.card.pipeline, plan.checkpoint, plan.config.device, plan.config.network.offload)
        groups.setdefault(key, []).append(plan)
    return list(groups.values())
