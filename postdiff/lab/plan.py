"""A row made ready: names resolved, every check done that needs no weights, and its identities computed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff import catalog, metrics, presets
from postdiff.engine.errors import UsageError
from postdiff.lab import code_hash, placement
from postdiff.lab import samples as samples_
from postdiff.lab.config import metric_specs, schedulers
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import NetworkConfig, RunConfig, digest
from postdiff.lab.files import weights
from postdiff.lab.inputs import data_cards
from postdiff.lab.metrics import measuring
from postdiff.lab.network import network_options, offloading
from postdiff.lab.pipelines import intake, models, quantization, random_weights, sizes
from postdiff.lab.pipelines.stages import StageRun, first_laid_over, fitted, resolve
from postdiff.metrics.options import PLACES

__all__ = ["Plan", "prepare", "same_weights"]


@dataclass(frozen=True)
class Plan:
    """A row that can be run.

    Attributes:
        row: name, label and reported figures.
        config: the row's config with everything that the cards decide filled in.
        card: the model card.
        data_card: the data card.
        methods: instances, first outermost; of a cascade, the first stage's.
        checkpoint: the weights, or "random:" and the structure that takes random ones.
        entries: the lines of the data card that are used.
        prompts_hash: hash of their prompts, and of their own seeds where they have any.
        run_id: of the quality record.
        speed_id: of the speed record.
        images_id: of all that decides the pixels, but for what the other pictures of a batch are.
        references_id: the same for the run without methods and with `reference_steps`.
        content_id: of settings, prompts and seeds, whatever is measured of them and with whatever code.
        stages: of a cascade, all of them in order; empty if the model is one pipeline.
    """

    experiment: str
    row: Row
    config: RunConfig
    card: models.ModelCard
    data_card: data_cards.DataCard
    methods: tuple[Any, ...]
    checkpoint: str
    entries: tuple[data_cards.Entry, ...]
    prompts_hash: str
    run_id: str
    speed_id: str
    images_id: str
    references_id: str
    content_id: str
    stages: tuple[StageRun, ...] = ()

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.row.name

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts used, or the names of classes."""
        return tuple(entry.prompt for entry in self.entries)

    @property
    def samples(self) -> list[samples_.Sample]:
        """Every line with every seed; of a video, every frame."""
        return samples_.samples(self.entries, self.config.seeds, self.config.frames or 1)

    @property
    def batches(self) -> list[list[samples_.Sample]]:
        """The samples of each network call, whatever is there already and whoever draws."""
        return samples_.batches(self.samples, self.config.batch_size)

    @property
    def given(self) -> intake.Given:
        """What the row offers its pipeline."""
        return _given(self.config, self.data_card)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics to measure."""
        return metric_specs.names(self.config.metrics)

    @property
    def paired(self) -> bool:
        """Whether a metric needs the reference pictures."""
        return any("references" in metrics.find(name).needs for name in self.metrics)

    @property
    def step_metric(self) -> str | None:
        """The metric that scores every step, if `step_scores` asks for it: one of picture and prompt alone."""
        return next(measuring.step_metrics(self.metrics), None) if self.config.step_scores else None

    @property
    def variant(self) -> tuple[Any, ...]:
        """What tells apart pipelines that are loaded from the same weights."""
        return (self.config.dtype, self.config.network.offload)

    def reference(self) -> Plan:
        """The plan that makes the reference pictures: no methods, more steps."""
        # A model too large for the GPU is so without methods too.
        network = NetworkConfig(offload=self.config.network.offload)
        config = dataclasses.replace(self.config, methods=[], steps=self.config.reference_steps, network=network)
        row = Row("reference", f"{config.steps}-step reference", config, {}, {})
        alone = tuple(stage.reference() for stage in self.stages)
        return dataclasses.replace(self, row=row, config=config, methods=(), stages=alone, images_id=self.references_id)

    def resolved(self) -> dict[str, Any]:
        """The resolved config as a record keeps it, methods with every option spelt out."""
        chain = {stage.name: stage.described() for stage in self.stages}
        own = [entry.seed for entry in self.entries if entry.seed is not None]
        seeded = {"line_seeds": digest(own)} if own else {}
        return {**self.config.as_dict(), "methods": presets.describe(self.methods), "stages": chain, **seeded}


def prepare(experiment: Experiment) -> list[Plan]:
    """Check all rows and make them ready, before any weight is loaded.

    Raises:
        UsageError: the first mistake found, with the row it is in.
    """
    plans = []
    # Rows mostly share their cards, and reading one takes longer than all else here.
    model_card, data_card = functools.cache(models.card), functools.cache(data_cards.card)
    identity = functools.cache(lambda name, random: _identity(model_card(name), name, random))
    entries = functools.cache(lambda name: data_cards.read(data_card(name)))
    for row in experiment.rows:
        try:
            card, shared = model_card(row.config.model), data_card(row.config.data)
            model = identity(row.config.model, row.config.weights == "random")
            plans.append(_prepare(experiment.name, row, card, shared, entries(row.config.data), model))
        except UsageError as error:
            raise UsageError(f"row '{row.name}': {error}") from error
    return plans


def _prepare(
    experiment: str,
    row: Row,
    card: models.ModelCard,
    data_card: data_cards.DataCard,
    available: Sequence[data_cards.Entry],
    model: dict[str, str],
) -> Plan:
    row = fitted(row, card)
    row = dataclasses.replace(row, config=first_laid_over(row.config, card))
    random = row.config.weights == "random"
    chain = resolve(row.config, card)
    methods = tuple(presets.build_methods(row.config.methods))
    solvers = (card.scheduler, row.config.scheduler, *(solver for stage in chain for solver in stage.solvers))
    for solver in solvers:
        if solver.name is not None:
            schedulers.check(solver.name, solver.options)
    count = row.config.count or len(available)
    if count > len(available):
        raise UsageError(f"count={count}, but data '{row.config.data}' has {len(available)} prompts; use at most that")
    asked = dataclasses.replace(row.config, **card.of_task(row.config))
    cls = random_weights.pipeline_class(card) if random else models.pipeline_class(chain[0].card if chain else card)
    wanted = cls and intake.intake_of(cls)
    if wanted is not None:
        intake.check(wanted, _given(asked, data_card))
    device, network = placement.device(row.config), row.config.network
    config = dataclasses.replace(
        asked,
        frames=_frames(asked, wanted),
        count=count,
        seeds=row.config.seeds or data_card.seeds or [0],
        dtype=row.config.dtype or card.dtype,
        device=device,
        network=dataclasses.replace(network, offload=offloading.chosen(network.offload, card.offload, device)),
        metrics=[] if random else measuring.chosen(row.config, count, card, data_card),
        **_usual(card, row.config, random),
    )
    measured = metric_specs.names(config.metrics)
    if config.step_scores and next(measuring.step_metrics(measured), None) is None:
        raise UsageError(
            f"step_scores=true needs a text score among the metrics, and those of model '{row.config.model}' are "
            f"{', '.join(measured) or 'none'}; use model=emoji or step_scores=false"
        )
    network_options.check(config)
    for each in (card, *card.stages.values()):
        quantization.check(each.quantization, config.device)
    _check_words(card, available)
    made_of = {
        **model,
        "prompts": _digest_of(available),
        "schedulers": [dataclasses.asdict(card.scheduler), dataclasses.asdict(config.scheduler)],
        **own_code.added("schedulers", (solver.name for solver in solvers)),
        **{name: getattr(config, name) for name in ("guidance_scale", "height", "width", "dtype")},
        **_beside_text(config, data_card, available),
    }
    described = presets.describe(methods)
    options = network_options.described(config.network)
    # How many are drawn at once moves the last bits of each; at the usual number, older ids stay true.
    at_once = {} if config.batch_size == RunConfig.batch_size else {"batch_size": config.batch_size}
    run = {**made_of, "steps": config.steps, "methods": described, **_of(chain), **options}
    references = _of(stage.reference() for stage in chain)
    quality = {
        **run,
        **{name: getattr(config, name) for name in ("seeds", "batch_size", "reference_steps", "step_scores")},
        "metrics": [metric_specs.described(spec, PLACES) for spec in config.metrics or ()],
        **({"bootstrap": config.bootstrap} if config.bootstrap else {}),
        "used": _digest_of(available[:count]),
        "measured_with": measuring.measured_with(config, card, data_card),
    }
    return Plan(
        experiment=experiment,
        row=row,
        config=config,
        card=card,
        data_card=data_card,
        methods=methods,
        checkpoint=model["checkpoint"],
        entries=tuple(available[:count]),
        prompts_hash=_digest_of(available[:count]),
        run_id=digest(quality),
        speed_id=digest(
            {**run, **network_options.described_for_times(config.network), "bench": config.bench.described()}
        ),
        # Without methods the pictures are the bare pipeline's, whatever our code.
        images_id=digest(
            {**run, **at_once, "code": _code(methods, chain) if _accelerated(methods, chain) or options else None}
        ),
        references_id=digest(
            {**made_of, **at_once, "steps": config.reference_steps, "methods": [], "code": None, **references}
        ),
        content_id=digest({**run, "seeds": config.seeds, "used": _digest_of(available[:count])}),
        stages=chain,
    )


def _digest_of(entries: Sequence[data_cards.Entry]) -> str:
    """Of prompts alone where no line has a seed of its own, so that older ids stay true."""
    return digest([entry.prompt if entry.seed is None else [entry.prompt, entry.seed] for entry in entries])


def _identity(card: models.ModelCard, name: str, random: bool) -> dict[str, str]:
    """What a model adds to an identity: its weights and configs, and its class where that is not what they say."""
    if random:
        return {"checkpoint": random_weights.identity(card, name), **random_weights.own_structure(card)}
    found = {"checkpoint": models.checkpoint(card)}
    # Of a cascade the stages say it; shipped cards of one repository differ in more than their classes.
    shipped = name in catalog.names("models") and catalog.shipped(catalog.path("models", name))
    if not card.stages and not shipped and (other := models.other_class(card)) is not None:
        found["pipeline"] = other
    return found


def _usual(card: models.ModelCard, config: RunConfig, random: bool) -> dict[str, Any]:
    found = card.usual(config)
    usual = (lambda: sizes.of_structure(str(card.structure))) if random else (lambda: sizes.of_card(card))
    height, width = sizes.whole(found["height"], found["width"], usual)
    return {**found, "height": height, "width": width}


def _of(chain: Iterable[StageRun]) -> dict[str, Any]:
    """What the stages of a cascade add to an identity; nothing where there are none, so that older ids stay true."""
    described = [[stage.name, stage.described()] for stage in chain]
    return {"stages": described} if described else {}


def _code(methods: Sequence[Any], chain: Sequence[StageRun]) -> str:
    stacks = (methods, *(stage.methods for stage in chain))
    return own_code.code_hash(frozenset(type(method) for stack in stacks for method in stack))


def _accelerated(methods: Sequence[Any], chain: Sequence[StageRun]) -> bool:
    return bool(methods) or any(stage.methods for stage in chain)


def _given(config: RunConfig, data_card: data_cards.DataCard) -> intake.Given:
    return intake.Given(
        config.data, data_card.images is not None, data_card.classes is not None, config.strength, config.frames
    )


def _frames(config: RunConfig, wanted: intake.Intake | None) -> int | None:
    """Length of the row's videos; None for single pictures."""
    if wanted is None or wanted.usual_frames is None:
        return config.frames
    if config.step_scores:
        raise UsageError(f"step_scores=true is for pictures, and {wanted.name} makes videos; use step_scores=false")
    return config.frames or wanted.usual_frames


def _check_words(card: models.ModelCard, entries: Sequence[data_cards.Entry]) -> None:
    for embedding in card.embeddings:
        if embedding.token is not None and not any(embedding.token in entry.prompt for entry in entries):
            raise UsageError(f"no prompt holds the word '{embedding.token}' that the model card brings; use others")


def _beside_text(
    config: RunConfig, data_card: data_cards.DataCard, entries: Sequence[data_cards.Entry]
) -> dict[str, Any]:
    """What decides the pixels beside prompts; nothing where there is nothing, so that older ids stay true."""
    found: dict[str, Any] = {
        name: value for name in ("strength", "frames") if (value := getattr(config, name)) is not None
    }
    if data_card.images is not None:
        files = [weights.file_hash(entry.picture) for entry in entries if entry.picture is not None]
        found["pictures"] = [digest(files), dataclasses.asdict(data_card.condition)]
        found |= own_code.added("conditions", [data_card.condition.name])
    if data_card.classes is not None:
        found["classes"] = digest([entry.label for entry in entries])
    return found


def same_weights(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Jobs in groups that share pipeline class, weights, device and where weights wait; dtypes may differ.

    Groups and plans keep the order of appearance.
    """
    groups: dict[tuple[Any, ...], list[Plan]] = {}
    for plan in plans:
        key = (plan.card.pipeline, plan.checkpoint, plan.config.device, plan.config.network.offload)
        groups.setdefault(key, []).append(plan)
    return list(groups.values())
