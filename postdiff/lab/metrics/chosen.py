"""Which metrics a row measures, which files they rest on, and the metrics themselves."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from postdiff import metrics, model_files
from postdiff.engine.errors import UsageError
from postdiff.lab.config import metric_specs
from postdiff.lab.config.schema import RunConfig
from postdiff.lab.inputs.data_cards import DataCard
from postdiff.lab.metrics import metric_networks
from postdiff.lab.pipelines import models
from postdiff.metrics.base import PerImageMetric
from postdiff.metrics.encoder import DualEncoder
from postdiff.metrics.frechet import Statistics

__all__ = ["by_seed", "chosen", "measured_with", "step_metrics"]


def chosen(config: RunConfig, count: int, card: models.ModelCard, data_card: DataCard) -> list[Any]:
    """The metrics asked for, or else all that model and data can serve, as configs write them.

    Raises:
        UsageError: one that model or data cannot serve, or that means nothing of so few pictures.
    """
    available: dict[str, object] = {
        "references": True,
        "encoder": card.dual_encoder,
        "statistics": data_card.reference_statistics,
    }
    # Metrics with weights of their own, which do not ship, are measured only when asked for.
    shipped = [name for name, info in metrics.METRICS.items() if info.shipped]
    specs = list(shipped if config.metrics is None else config.metrics)
    names = metric_specs.names(specs)
    missing = {name: need for name in names for need in metrics.find(name).needs if not available[need]}
    possible = [name for name in names if name not in missing]
    for name in possible:
        if count < (least := metrics.find(name).least):
            raise UsageError(
                f"count={count}: metric {name} needs at least {_NUMBERS.get(least, least)} pictures a seed; use "
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


_NUMBERS = {2: "two", 4: "four"}


def measured_with(config: RunConfig, card: models.ModelCard, data_card: DataCard) -> list[str | None]:
    """Hashes of the files that the metrics rest on; their paths are nobody's business."""
    specs = [metric_specs.parsed(spec) for spec in config.metrics or []]
    needs = {need for name, _ in specs for need in metrics.find(name).needs}
    found: list[str | None] = []
    if "encoder" in needs:
        found.append(_encoder_mark(models.package_file(str(card.dual_encoder))))
    if "statistics" in needs:
        file = models.package_file(str(data_card.reference_statistics))
        found.append(models.file_hash(file) if file.is_file() else None)
    own = dict.fromkeys(metrics.find(name).checkpoint for name, _ in specs)
    found += [checkpoint.identity() for checkpoint in own if checkpoint is not None]
    for name, options in specs:
        found += metric_networks.marks(metrics.find(name), options, config.data)
    return found


def step_metrics(names: Iterable[str]) -> Iterator[str]:
    """Those that score a picture and its prompt alone, and so every step of a run."""
    return (name for name in names if metrics.find(name).needs == ("encoder",))


def by_seed(config: RunConfig, card: models.ModelCard, data_card: DataCard) -> dict[int, dict[str, Metric]]:
    """For each seed its own metrics around shared networks.

    Raises:
        UsageError: a file that a metric needs is missing or does not fit.
    """
    specs = [metric_specs.parsed(spec) for spec in config.metrics or []]
    given: dict[str, Any] = {}
    if card.dual_encoder is not None:
        folder = models.package_file(card.dual_encoder)
        given["encoder"] = _encoder(folder, _encoder_mark(folder))
    if any("statistics" in metrics.find(name).needs for name, _ in specs):
        given["statistics"] = Statistics.load(models.package_file(str(data_card.reference_statistics)))
    made: dict[int, dict[str, Metric]] = {seed: {} for seed in config.seeds}
    for name, options in specs:
        info = metrics.find(name)
        arguments = {need: given[need] for need in info.needs if need in given}
        if info.network is not None:
            arguments |= metric_networks.arguments(name, options, config.data, config.bootstrap)
        if "statistics" in info.needs:
            arguments["resamples"] = config.bootstrap
        for seed in config.seeds:
            made[seed][name] = metric = info.load()(**arguments)
            if isinstance(metric, PerImageMetric):
                metric.resamples = config.bootstrap
    return made


# The mark, so that a folder that was changed is read again.
@functools.lru_cache(maxsize=1)
def _encoder(folder: Path, mark: str | None) -> DualEncoder:
    return DualEncoder.load(folder)


def _encoder_mark(folder: Path) -> str | None:
    """Which encoder a folder holds; None if it holds no whole one."""
    if not (folder / "model.safetensors").is_file():
        return None
    return model_files.identity(model_files.of_part(folder), folder)
