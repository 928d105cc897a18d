"""A row made ready: names resolved, every check done that needs no weights, and its identities computed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff import metrics, presets
from postdiff.engine.errors import UsageError
from postdiff.lab import data, models, provenance, schedulers
from postdiff.lab.config import RunConfig, digest
from postdiff.lab.experiment import Experiment, Row

__all__ = ["Job", "prepare"]


@dataclass(frozen=True)
class Job:
    """A row that can be run.

    Attributes:
        row: name, label and reported figures.
        config: the row's config with everything that the cards decide filled in.
        card: the model card.
        data_card: the data card.
        methods: instances, first outermost.
        checkpoint: the weights.
        prompts: the prompts used.
        prompts_hash: hash of them.
        run_id: of the quality record.
        speed_id: of the speed record.
        picture_id: of all that decides the pixels.
        reference_id: the same for the run without methods and with `reference_steps`.
    """

    experiment: str
    row: Row
    config: RunConfig
    card: models.ModelCard
    data_card: data.DataCard
    methods: tuple[Any, ...]
    checkpoint: str
    prompts: tuple[str, ...]
    prompts_hash: str
    run_id: str
    speed_id: str
    picture_id: str
    reference_id: str

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.row.name

    @property
    def samples(self) -> list[data.Sample]:
        """Every (prompt, seed) pair."""
        return data.pairs(self.prompts, self.config.seeds)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics to measure."""
        return list(self.config.metrics or [])

    @property
    def paired(self) -> bool:
        """Whether a metric needs the reference pictures."""
        return any("references" in metrics.find(name).needs for name in self.metrics)

    @property
    def step_metric(self) -> str | None:
        """The metric that scores every step, if `step_scores` asks for it: one of picture and prompt alone."""
        return next(_step_metrics(self.metrics), None) if self.config.step_scores else None

    def reference(self) -> Job:
        """The job that makes the reference pictures: no methods, more steps."""
        config = dataclasses.replace(self.config, methods=[], steps=self.config.reference_steps)
        row = Row("reference", f"{config.steps}-step reference", config, {}, {})
        return dataclasses.replace(self, row=row, config=config, methods=(), picture_id=self.reference_id)

    def resolved(self) -> dict[str, Any]:
        """The resolved config as a record keeps it, methods with every option spelt out."""
        return {**self.config.as_dict(), "methods": presets.describe(self.methods)}


def prepare(experiment: Experiment) -> list[Job]:
    """Check all rows and make them ready, before any weight is loaded.

    Raises:
        UsageError: the first mistake found, with the row it is in.
    """
    jobs = []
    # Rows mostly share their cards, and reading one takes longer than all else here.
    model_card, data_card = functools.cache(models.card), functools.cache(data.card)
    for row in experiment.rows:
        try:
            jobs.append(_prepare(experiment.name, row, model_card(row.config.model), data_card(row.config.data)))
        except UsageError as error:
            raise UsageError(f"row '{row.name}': {error}") from error
    return jobs


def _prepare(experiment: str, row: Row, card: models.ModelCard, data_card: data.DataCard) -> Job:
    checkpoint = models.checkpoint(card)
    methods = tuple(presets.build_methods(row.config.methods))
    for solver in (card.scheduler, row.config.scheduler):
        if solver.name is not None:
            schedulers.check(solver.name, solver.options)
    available = data.read_prompts(data_card)
    count = row.config.count or len(available)
    if count > len(available):
        raise UsageError(f"count={count}, but data '{row.config.data}' has {len(available)} prompts; use at most that")
    config = dataclasses.replace(
        row.config,
        count=count,
        dtype=row.config.dtype or card.dtype,
        device=provenance.resolve_device(row.config.device),
        metrics=_chosen_metrics(row.config, count, card, data_card),
        **card.usual(row.config),
    )
    if config.step_scores and next(_step_metrics(config.metrics or []), None) is None:
        raise UsageError(
            f"step_scores=true needs a text score among the metrics, and those of model '{row.config.model}' are "
            f"{', '.join(config.metrics or []) or 'none'}; use model=emoji or step_scores=false"
        )
    prompts = tuple(available[:count])
    made_of = {
        "checkpoint": checkpoint,
        "prompts": digest(available),
        "schedulers": [dataclasses.asdict(card.scheduler), dataclasses.asdict(config.scheduler)],
        **{name: getattr(config, name) for name in ("guidance_scale", "height", "width", "dtype")},
    }
    described = presets.describe(methods)
    run = {**made_of, "steps": config.steps, "methods": described}
    quality = {
        **run,
        **{
            name: getattr(config, name) for name in ("seeds", "batch_size", "metrics", "reference_steps", "step_scores")
        },
        "used": digest(prompts),
        "measured_with": _measured_with(config, card, data_card),
    }
    return Job(
        experiment=experiment,
        row=row,
        config=config,
        card=card,
        data_card=data_card,
        methods=methods,
        checkpoint=checkpoint,
        prompts=prompts,
        prompts_hash=digest(prompts),
        run_id=digest(quality),
        speed_id=digest({**run, "bench": dataclasses.asdict(config.bench)}),
        # Without methods the pictures are the bare pipeline's, whatever our code.
        picture_id=digest({**run, "code": provenance.code() if methods else None}),
        reference_id=digest({**made_of, "steps": config.reference_steps, "methods": [], "code": None}),
    )


def _step_metrics(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if metrics.find(name).needs == ("encoder",))


def _chosen_metrics(config: RunConfig, count: int, card: models.ModelCard, data_card: data.DataCard) -> list[str]:
    """The metrics asked for, or else all that model and data can serve."""
    available: dict[str, object] = {
        "references": True,
        "encoder": card.dual_encoder,
        "statistics": data_card.reference_statistics,
    }
    names = list(metrics.METRICS) if config.metrics is None else config.metrics
    missing = {name: need for name in names for need in metrics.find(name).needs if not available[need]}
    possible = [name for name in names if name not in missing]
    if count == 1 and any("statistics" in metrics.find(name).needs for name in possible):
        raise UsageError("count=1: a Frechet distance needs at least two pictures a seed; use count=2 or more")
    if config.metrics is None:
        return possible
    if missing:
        name, need = next(iter(missing.items()))
        card_kind = f"model '{config.model}'" if need == "encoder" else f"data '{config.data}'"
        raise UsageError(
            f"metric {name} needs {'a dual encoder' if need == 'encoder' else 'reference statistics'}, "
            f"which {card_kind} does not name; use metrics=[{','.join(possible)}]"
        )
    return list(names)


def _measured_with(config: RunConfig, card: models.ModelCard, data_card: data.DataCard) -> list[str | None]:
    """Hashes of the files that the metrics rest on; their paths are nobody's business."""
    needs = {need for name in config.metrics or [] for need in metrics.find(name).needs}
    files = []
    if "encoder" in needs:
        files.append(models.package_file(str(card.dual_encoder)) / "model.safetensors")
    if "statistics" in needs:
        files.append(models.package_file(str(data_card.reference_statistics)))
    return [models.file_hash(file) if file.is_file() else None for file in files]


def same_model(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in groups that share weights, dtype and device, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.checkpoint, job.config.dtype, job.config.device), []).append(job)
    return list(groups.values())
