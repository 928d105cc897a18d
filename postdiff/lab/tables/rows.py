"""Records as flat rows of values: what tables print, and what other programs read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from postdiff.cost.ratios import ratio
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.records.record import KINDS, Record, Value, find, fresh_path
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
    rows = [row.name for row in experiment.rows]
    records: dict[str, dict[str, Record]] = {}
    for name in dict.fromkeys([experiment.baseline, *rows]):
        try:
            found = {kind: find(experiment.name, name, kind) for kind in kinds}
        except UsageError:
            if name in rows:
                raise
            continue  # damaged, and not among the rows
        records[name] = {kind: record for kind, record in found.items() if record is not None}
    if not any(records[name] for name in rows):
        raise UsageError(
            f"experiment {experiment.name} has no records in {fresh_path(experiment.name, '').parent}; "
            f"make them with 'postdiff run {experiment.name}'"
        )
    flat, unlike = [], _measured_otherwise({name: records[name] for name in rows})
    for row in experiment.rows:
        own = records[row.name]
        of_run = [(one.checkpoint, *map(one.config.get, ("steps", "methods", "dtype"))) for one in own.values()]
        if any(each != of_run[0] for each in of_run):
            own = {"quality": own["quality"]}  # its times are of other weights or settings
        first, timed_first = _compared_with(own, records.values())
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
        flat.append(values)
    return flat


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
    for name, by_seed in record.curves.items():  # mean over seeds after each quarter of the steps
        columns = list(zip(*by_seed.values(), strict=True))
        if any(None in column for column in columns):
            continue  # at some step the estimate could not be scored
        for step in sorted({max(1, round(len(columns) * quarter / 4)) for quarter in (1, 2, 3, 4)}):
            values[f"{name}_at_{step}"] = sum(columns[step - 1]) / len(by_seed)
    return values | {
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


def speed_values(record: Record | None, first: Record | None) -> dict[str, Any]:
    """Flat values of one row.

    Keys: time_s, time_q25_s, time_q75_s (an image), loop_s (of it, the denoising loop), images_per_s, speedup and
    loop_speedup over `first`, each with `_q25` and `_q75` over rounds, ideal (the ratio of the denoiser's MACs, both
    attention products counted), realised (the loop's speed-up, or where the loop was not timed apart the whole call's,
    over ideal), time_batch_size, time_rounds, time_limit_s (null without `bench.seconds`), peak_memory_mb (10^6 bytes,
    a call), time_device, random_weights, finite (whether its images are numbers throughout), and where other code
    was timed official (its name), official_time_s, official_ratio (its time over ours) with `_q25` and `_q75`,
    official_loop_ratio and official_difference (largest difference between the images of both).

    Args:
        record: the row's; None gives no values.
        first: what it is compared with. Only times taken in the same turns are compared: a ratio of others would
            measure the machine's mood.
    """
    if record is None:
        return {}
    time = record.latency
    found: dict[str, Any] = {
        "time_s": time["median_s"],
        "time_q25_s": time["q25_s"],
        "time_q75_s": time["q75_s"],
        "loop_s": time.get("loop", {}).get("median_s"),  # records of older runs have none, and no rounds
        "images_per_s": 1 / time["median_s"],
        "time_batch_size": time["batch_size"],
        "time_rounds": time.get("repeats"),
        "time_limit_s": time.get("seconds"),
        "peak_memory_mb": time.get("peak_memory_mb"),
        "time_device": record.device,
        "random_weights": record.checkpoint.startswith("random:"),
        "finite": time.get("finite"),
        "speedup": None,
    }
    if first is not None and first.latency.get("session") == time["session"]:
        found["speedup"] = first.latency["median_s"] / time["median_s"]
        for name, rounds in (("speedup", "rounds_s"), ("loop_speedup", "loop_rounds_s")):
            theirs, ours = first.latency.get(rounds), time.get(rounds)
            if theirs and ours and len(theirs) == len(ours):
                found |= ratio(theirs, ours).named(name)
    before, after = first and first.denoiser_macs("all"), record.denoiser_macs("all")
    found["ideal"] = ideal = before / after if before and after else None
    speedup = found.get("loop_speedup") or found.get("speedup")
    found["realised"] = speedup / ideal if speedup and ideal else None
    if official := time.get("official", {}):
        names = ("ratio", "ratio_q25", "ratio_q75", "loop_ratio", "difference")
        found |= {f"official_{name}": official[name] for name in names if name in official}
        found |= {"official": official["name"], "official_time_s": official["median_s"]}
    return found


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
    if any(record.git.get("dirty") for record in own.values()):
        notes.append("uncommitted code")
    if len({record.device.partition(",")[0] for record in (*own.values(), *first.values())}) > 1:
        notes.append("mixed devices")
    if baseline and (quality.prompts, quality.seeds) != (baseline.prompts, baseline.seeds):
        notes.append("other prompts or seeds than the first row")
    if timed_first is not None and own["speed"].latency["session"] != timed_first.latency["session"]:
        notes.append("not timed together with the first row")
    return notes
