"""What a record says, as loggers take it: flat numbers, a description, and a few images with their own numbers."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
from pathlib import Path
from typing import Any

from postdiff.lab.config.schema import digest
from postdiff.lab.data.samples import Sample
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import Record, fresh_path

__all__ = ["curves", "describe", "numbers", "run_name", "table", "tags", "times"]

LONGEST_TAG = 64  # W&B refuses longer ones
# Columns of the CSV file that say which image it is; the others are its values.
WHICH = {"index", "prompt", "seed", "own_seed", "sha256"}


def run_name(plan: Plan) -> str:
    """The run's own name: the same whenever the row is generated with these settings, prompts and seeds."""
    return digest([plan.experiment, plan.name, plan.content_id], 16)


def tags(plan: Plan) -> list[str]:
    """Experiment, model, data, methods, and what the config adds."""
    methods = [method for one in plan.resolved()["methods"] for method in one]
    model, data = Path(plan.config.model).name, Path(plan.config.data).name
    every = [plan.experiment, model, data, *methods, *plan.config.logger.tags]
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in every if tag))


def numbers(record: Record) -> dict[str, float]:
    """Metrics (value, spread and each seed), MACs by part and convention, counts, and how many images there are.

    Keys: "<metric>", "<metric>_spread", "seeds/<metric>/<seed>", "macs/<part>/<convention>", "counts/<what>",
    "n_done" and "n_asked".
    """
    found: dict[str, Any] = {"n_done": record.n_done, "n_asked": record.n_asked}
    for metric, value in record.metrics.items():
        low, high = value.interval or (None, None)
        found |= {metric: value.value, f"{metric}_spread": value.spread}
        found |= {f"{metric}_interval_low": low, f"{metric}_interval_high": high}
        found |= {f"seeds/{metric}/{seed}": own for seed, own in value.per_seed.items()}
    for part, by_convention in record.macs.items():
        found |= {f"macs/{part}/{convention}": count for convention, count in by_convention.items()}
    found |= {f"counts/{what}": count for what, count in record.counts.items()}
    return _finite(found)


def times(record: Record) -> dict[str, float]:
    """Figures of a speed record: "latency/median_s" (an image) and its kind; "latency/loop/median_s" of a part."""
    flat: dict[str, Any] = {}
    for what, value in record.latency.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"latency/{what}/{part}" if part else f"latency/{what}": one for part, one in parts}
    return _finite(flat)


def describe(record: Record) -> dict[str, Any]:
    """What no number says: which metrics these are, by what code, on what machine, with which inputs."""
    return {
        "run_id": record.run_id,
        "identity": {metric: value.identity for metric, value in record.metrics.items()},
        "record": {
            key: getattr(record, key)
            for key in ("label", "checkpoint", "prompts", "references", "images", "device", "git", "versions")
        }
        | {"started": record.started, "ended": record.ended},
    }


def curves(record: Record) -> dict[str, list[float]]:
    """{"curves/<metric>/<seed>": values of the clean estimate after each step}."""
    return {
        f"curves/{metric}/{seed}": [math.nan if value is None else value for value in curve]
        for metric, by_seed in record.curves.items()
        for seed, curve in by_seed.items()
    }


def table(plan: Plan, images: ImageFolder) -> tuple[list[str], list[tuple[Sample, list[Any]]]]:
    """The first finished images, of videos their first frames; at most `logger.images`.

    Returns:
        Column heads (prompt, seed, index, metrics), and for each image its sample and its cells.
    """
    finished = (sample for sample in plan.samples if sample.frame == 0 and images.has(sample))
    shown = list(itertools.islice(finished, plan.config.logger.images))
    values = _of_images(plan)
    metrics = list(dict.fromkeys(key for own in values.values() for key in own))
    cells = {sample: values.get((sample.seed, sample.index), {}) for sample in shown}
    return ["prompt", "seed", "index", *metrics], [
        (sample, [sample.prompt, sample.seed, sample.index, *(own.get(key) for key in metrics)])
        for sample, own in cells.items()
    ]


def _of_images(plan: Plan) -> dict[tuple[int, int], dict[str, float]]:
    """{(seed, index): {metric: number}} from the CSV file beside the record; empty if there is none."""
    file, found = fresh_path(plan.experiment, plan.name).with_suffix(".csv"), {}
    if file.is_file():
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                own = found[int(row["seed"]), int(row["index"])] = dict[str, float]()
                for metric in (name for name in row if name not in WHICH):
                    with contextlib.suppress(TypeError, ValueError):  # no number
                        own[metric] = float(row[metric])
    return found


def _finite(found: dict[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
