"""Records as flat rows of values: what tables print, and what other programs read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.records.record import KINDS, Record, Value, fresh_path, load
from postdiff.lab.tables.speed_values import speed_values
from postdiff.metrics import facts, names

__all__ = ["FlatRow", "flat_rows"]

FlatRow = dict[str, Any]

# Settings that change where and how a row is run, not what comes out.
ASIDE = ("bench", "device", "wandb", "tensorboard", "logger")


def flat_rows(experiment: Experiment, kinds: Sequence[str] = KINDS) -> list[FlatRow]:
    """One flat row for each row of the experiment, ours first, then what a paper reports and the gap to it.

    Keys: row, label, model, steps, network_calls, the metrics (with `_spread`, and `_low` and `_high` where a 95 %
    interval was asked for), macs_g and macs_t (denoiser, dense convention, 10^9 and 10^12 an image), macs_g_spread
    (over images, where they differ), macs_g_fvcore (in that convention), macs_saving (of the first row with the same
    weights over this one's), those of `speed_values`, `<metric>_at_<step>` (of the clean estimate), n_done, n_asked,
    device, commit, notes, and `reported_` and `gap_` values. What was not measured is null. Values reported for
    another model than the record's are left out.

    Args:
        experiment: which rows, in which order.
        kinds: which records to look at. With both, a speed record of other settings than the quality record's is passed
            over.

    Raises:
        UsageError: no row has a record.
    """
    records = load(experiment.name, [row.name for row in experiment.rows], kinds)
    if not records:
        raise UsageError(
            f"experiment {experiment.name} has no records in {fresh_path(experiment.name, '').parent}; "
            f"make them with 'postdiff run {experiment.name}'"
        )
    try:
        baseline = load(experiment.name, [experiment.baseline], kinds).get(experiment.baseline, {})
    except UsageError:
        baseline = {}  # damaged, and not among the rows
    found, unlike = [], _measured_otherwise(records)
    for row in experiment.rows:
        own = _of_one_run(records.get(row.name, {}))
        first, timed_first = _compared_with(own, [baseline, *records.values()])
        values: FlatRow = {"row": row.name, "label": row.label, "model": row.config.model, "steps": row.config.steps}
        values |= _quality_values(own.get("quality"), first.get("quality"))
        values |= speed_values(own.get("speed"), timed_first)
        other_model = any("model" in record.changed for record in own.values())
        # A note on the row is a note on what the paper reports for its own model.
        about = [row.note] if row.note and not other_model else []
        values["notes"] = "; ".join([*_notes(own, first, timed_first), *unlike.get(row.name, []), *about])
        for name, value in ({} if other_model else row.reported).items():
            ours = values.get(name)
            values[f"reported_{name}"] = value
            values[f"gap_{name}"] = None if ours is None else ours - value
        found.append(values)
    return found


def _of_one_run(records: dict[str, Record]) -> dict[str, Record]:
    """Without the speed record if it is of other weights or settings than the quality record."""
    quality, speed = records.get("quality"), records.get("speed")
    if quality is None or speed is None:
        return records
    alike = all(quality.config.get(key) == speed.config.get(key) for key in ("steps", "methods", "dtype"))
    return records if alike and quality.checkpoint == speed.checkpoint else {"quality": quality}


def _compared_with(
    own: Mapping[str, Record], rows: Iterable[Mapping[str, Record]]
) -> tuple[Mapping[str, Record], Record | None]:
    """The records of the first row with the same weights, and the first speed record of these and our batch size."""
    weights = {record.checkpoint for record in own.values()}
    alike = (kinds for kinds in rows if any(record.checkpoint in weights for record in kinds.values()))
    first = next(alike, {})
    if "speed" not in own:
        return first, None
    size = own["speed"].latency["batch_size"]
    timed = (kinds["speed"] for kinds in itertools.chain([first], alike) if "speed" in kinds)
    return first, next((record for record in timed if record.latency["batch_size"] == size), None)


def _measured_otherwise(records: Mapping[str, Mapping[str, Record]]) -> dict[str, list[str]]:
    """For each row, one note for each metric whose identity differs from that of the first row that has the metric.

    What only one of two records says is passed over: committed records of older runs say less.
    """
    first, known = dict[str, Value](), names()
    found: dict[str, list[str]] = {}
    for row, kinds in records.items():
        for name, value in (kinds["quality"].metrics if "quality" in kinds else {}).items():
            if value.value is None:
                continue
            one, info = first.setdefault(name, value).identity, facts(name) if name in known else None
            # The reference run of a paired metric belongs to the row's own settings, and a note follows from the rest.
            # A mean over images does not depend on their number; a distance between sets does.
            passed_over = {"reference", "note", *(() if info and info.least > 1 else ("n_per_seed",))}
            keys = [key for key in one if key in value.identity and key not in passed_over]
            differing = [key for key in keys if one[key] != value.identity[key]]
            if differing:
                words = ", ".join(differing).replace("n_per_seed", "number of images")
                title = info.title if info else name
                found.setdefault(row, []).append(f"{title} with other {words} than in the first row")
    return found


def _quality_values(record: Record | None, first: Record | None) -> FlatRow:
    if record is None:
        return {}
    config, macs, fvcore = record.config, record.denoiser_macs("dense"), record.denoiser_macs("fvcore")
    first_macs, spread = first and first.denoiser_macs("dense"), record.macs_spread.get("denoiser", {}).get("dense")
    stages = config.get("stages")
    values: FlatRow = {
        "model": str(config.get("model", "")),
        "steps": sum(stage["steps"] for stage in stages.values()) if stages else config.get("steps"),
        "network_calls": record.counts.get("network calls"),
    }
    for name, value in record.metrics.items():
        values[name] = value.value
        values[f"{name}_spread"] = value.spread
        if value.interval is not None:
            values[f"{name}_low"], values[f"{name}_high"] = value.interval
    return values | {
        **_after_quarters(record),
        "macs_g": None if macs is None else macs / 1e9,
        "macs_g_spread": spread / 1e9 if spread else None,
        "macs_t": None if macs is None else macs / 1e12,
        "macs_g_fvcore": None if fvcore is None else fvcore / 1e9,
        "macs_saving": first_macs / macs if first_macs and macs else None,
        "n_done": record.n_done,
        "n_asked": record.n_asked,
        "seeds": len(record.seeds),
        "device": record.device,
        "commit": record.git.get("commit"),
    }


def _after_quarters(record: Record) -> FlatRow:
    """Scores of the clean estimate after each quarter of the steps: `<metric>_at_<step>`, mean over seeds."""
    values: FlatRow = {}
    for name, by_seed in record.curves.items():
        curves = [[value for value in curve if value is not None] for curve in by_seed.values()]
        if {len(curve) for curve in curves} != {len(curve) for curve in by_seed.values()}:
            continue  # at some step the estimate could not be scored
        steps = len(curves[0])
        for step in sorted({max(1, round(steps * quarter / 4)) for quarter in (1, 2, 3, 4)}):
            values[f"{name}_at_{step}"] = sum(curve[step - 1] for curve in curves) / len(curves)
    return values


def _notes(own: Mapping[str, Record], first: Mapping[str, Record], timed_first: Record | None) -> list[str]:
    quality, baseline = own.get("quality"), first.get("quality")
    if quality is None:
        return ["speed alone" if "speed" in own else "no record"]
    notes, changed = [], {key: json.dumps(value) for key, value in quality.changed.items() if key not in ASIDE}
    if changed:
        settings = ", ".join(f"{key}={value}" for key, value in changed.items()).replace('"', "")
        notes.append(f"not as in the experiment file, {settings}")
    if not quality.full:
        notes.append(f"partial, {quality.n_done} of {quality.n_asked} images")
    if any(record.dirty for record in own.values()):
        notes.append("uncommitted code")
    if len({record.device.partition(",")[0] for record in (*own.values(), *first.values())}) > 1:
        notes.append("mixed devices")
    if baseline and (quality.prompts, quality.seeds) != (baseline.prompts, baseline.seeds):
        notes.append("other prompts or seeds than the first row")
    if timed_first is not None and own["speed"].latency["session"] != timed_first.latency["session"]:
        notes.append("not timed together with the first row")
    return notes
