"""Which metrics a row measures, which files they rest on, and the metrics themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from postdiff import metrics, model_files
from postdiff.engine import plugins
from postdiff.engine.errors import UsageError
from postdiff.lab import code_hash
from postdiff.lab.config import metric_specs
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.data.data_cards import DataCard
from postdiff.lab.files import folders, weights
from postdiff.lab.pipelines import cards
from postdiff.metrics import clip
from postdiff.metrics.base import BaseMetric, Resources

__all__ = ["by_seed", "chosen", "measured_with", "step_metrics"]

_NUMBERS = {2: "two", 4: "four"}


def chosen(config: RunConfig, count: int, card: cards.ModelCard, data_card: DataCard) -> list[Any]:
    """The metrics asked for, or else all that model and data can serve, as configs write them.

    Raises:
        UsageError: one that model or data cannot serve, or that means nothing of so few images.
    """
    available: dict[str, object] = {
        "references": True,
        "encoder": card.dual_encoder,
        "statistics": data_card.reference_statistics,
    }
    if config.metrics is None:
        specs: list[Any] = [name for name in metrics.SHIPPED if metrics.facts(name).by_default]
    else:
        specs = list(config.metrics)
    names = metric_specs.names(specs)
    missing = {name: need for name in names for need in metrics.facts(name).needs if not available[need]}
    possible = [name for name in names if name not in missing]
    for name in possible:
        if count < (least := metrics.facts(name).least):
            raise UsageError(
                f"count={count}: metric {name} needs at least {_NUMBERS.get(least, least)} images a seed; use "
                f"count={least} or more"
            )
    if config.metrics is None:
        return possible
    if missing:
        name, need = next(iter(missing.items()))
        card_kind = f"model '{config.model}'" if need == "encoder" else f"data '{config.data}'"
        raise UsageError(
            f"metric {name} needs {'a dual encoder' if need == 'encoder' else 'reference statistics'}, "
            f"which {card_kind} does not name; use metrics=[{','.join(possible)}]"
        )
    return [metric_specs.described(spec) for spec in specs]


def step_metrics(names: Iterable[str]) -> Iterator[str]:
    """Those that score an image and its prompt alone, and so every step of a run."""
    return (name for name in names if metrics.facts(name).needs == ("encoder",))


def measured_with(config: RunConfig, card: cards.ModelCard, data_card: DataCard) -> list[str | None]:
    """Hashes of the files that the metrics rest on, their own code among them; paths are nobody's business."""
    classes, resources = _prepared(config, card, data_card)
    needs = {need for cls, _ in classes.values() for need in cls.needs}
    found: list[str | None] = []
    if "encoder" in needs and resources.encoder is not None:
        found.append(clip.dual_encoder_hash(resources.encoder))
    if "statistics" in needs and (file := resources.statistics) is not None:
        found.append(model_files.sha256(file) if file.is_file() else None)
    own = dict.fromkeys(cls.weights for cls, _ in classes.values())
    found += [checkpoint.identity() for checkpoint in own if checkpoint is not None]
    for name, (cls, options) in classes.items():
        found += cls.rests_on(options, resources)
        if name not in metrics.SHIPPED:
            found.append(code_hash.code_hash(frozenset([cls]), private=True))
    return found


def by_seed(config: RunConfig, card: cards.ModelCard, data_card: DataCard) -> dict[int, dict[str, BaseMetric]]:
    """For each seed its own metrics around shared networks.

    Raises:
        UsageError: a file that a metric needs is missing or does not fit.
    """
    classes, resources = _prepared(config, card, data_card)
    made: dict[int, dict[str, BaseMetric]] = {seed: {} for seed in config.seeds}
    for name, (cls, options) in classes.items():
        for seed in config.seeds:
            try:
                made[seed][name] = cls.from_options(options, resources)
            except UsageError as error:
                raise UsageError(f"metric {name}: {error}") from error
            except Exception as error:
                if name in metrics.SHIPPED:
                    raise
                raise plugins.broken("metrics", name, "built", error, inspect.getfile(cls)) from error
            made[seed][name].resamples = config.bootstrap
    return made


def _prepared(
    config: RunConfig, card: cards.ModelCard, data_card: DataCard
) -> tuple[dict[str, tuple[type[BaseMetric], Any]], Resources]:
    """Class and options of each metric by name, and what the row offers them."""
    specs = [metric_specs.parsed(spec) for spec in config.metrics or []]
    named = (card.dual_encoder, data_card.reference_statistics, data_card.reference_features)
    encoder, statistics, features = (None if name is None else weights.package_file(str(name)) for name in named)
    resources = Resources(config.data, folders.outputs() / "data" / "statistics", encoder, statistics, features)
    return {name: (metrics.load(name), options) for name, options in specs}, resources
