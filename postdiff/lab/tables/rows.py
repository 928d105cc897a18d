"""Records as flat rows of figures: what tables print, and what other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from postdiff.lab.records.speed_figures import speed_figures

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.records import comparable, results
from postdiff.lab.records.record import KINDS, Record

__all__ = ["Row", "flat_rows"]

Row = dict[str, Any]

# Settings that change where and how a row is run, not what comes out.
ASIDE = ("bench", "device", "wandb", "tensorboard", "mirror")


def flat_rows(experiment: Experiment, kinds: Sequence[str] = KINDS) -> list[Row]:
    """One flat row for each row of the experiment, ours first, then what a paper reports and the gap to it.

    Keys: row, label, model, steps, network_calls, the metrics (with `_spread`, and `_low` and `_high` where a 95 %
    interval was asked for), macs_g and macs_t (denoiser, dense convention, 10^9 and 10^12 a picture), macs_g_spread
    (over pictures, where they differ), macs_g_fvcore (in that convention), macs_saving (of the first row with the same
    weights over this one's), those of `speed_figures`, `<metric>_at_<step>` (of the clean estimate), n_done, n_asked,
    device, commit, notes, and `reported_` and `gap_` figures. What was not measured is null. Figures reported for
    another model than the record's are left out.

    Args:
        experiment: which rows, in which order.
        kinds: which records to look at. With both, a speed record of other settings than the quality record's is passed
            over.

    Raises:
        UsageError: no row has a record.
    """
    records = results.load(experiment.name, [row.name for row in experiment.rows], kinds)
    if not records:
        raise UsageError(
            f"experiment {experiment.name} has no records in {results.fresh_path(experiment.name, '').parent}; "
            f"make them with 'postdiff run {experiment.name}'"
        )
    baseline = _baseline(experiment, kinds)
    found, unlike, first_of = [], comparable.unlike(records), _First([baseline, *records.values()])
    for row in experiment.rows:
        own = _of_one_run(records.get(row.name, {}))
        first = first_of.same_weights(own)
        figures: Row = {"row": row.name, "label": row.label, "model": row.config.model, "steps": row.config.steps}
        figures |= _quality(own.get("quality"), first.get("quality"))
        figures |= speed_figures(own.get("speed"), first_of.timed_alike(own))
        other_model = any("model" in record.changed for record in own.values())
        # A note on the row is a note on what the paper reports for its own model.
        about = [row.note] if row.note and not other_model else []
        figures["notes"] = "; ".join(
            [*_notes(own, first, first_of.timed_alike(own)), *unlike.get(row.name, []), *about]
        )
        for name, value in ({} if other_model else row.reported).items():
            ours = figures.get(name)
            figures[f"reported_{name}"] = value
            figures[f"gap_{name}"] = None if ours is None else ours - value
        found.append(figures)
    return found


def _baseline(experiment: Experiment, kinds: Sequence[str]) -> dict[str, Record]:
    """Records of the first row of the file; none if they are damaged, as another row's would be."""
    try:
        return results.load(experiment.name, [experiment.baseline], kinds).get(experiment.baseline, {})
    except UsageError:
        return {}


def _of_one_run(records: dict[str, Record]) -> dict[str, Record]:
    """Without the speed record if it is of other weights or settings than the quality record."""
    quality, speed = records.get("quality"), records.get("speed")
    if quality is None or speed is None:
        return records
    alike = all(quality.config.get(key) == speed.config.get(key) for key in ("steps", "methods", "dtype"))
    return records if alike and quality.checkpoint == speed.checkpoint else {"quality": quality}


class _First:
    """The first of many rows that one is compared with, found without looking at all of them for each.

    Args:
        rows: records by kind, in the order of the table.
    """

    def __init__(self, rows: Iterable[dict[str, Record]]) -> None:
        self.by_weights: dict[str, tuple[int, dict[str, Record]]] = {}
        self.by_time: dict[tuple[str, Any], tuple[int, Record]] = {}
        for place, kinds in enumerate(rows):
            for checkpoint in _weights(kinds):
                self.by_weights.setdefault(checkpoint, (place, kinds))
                if (speed := kinds.get("speed")) is not None:
                    self.by_time.setdefault((checkpoint, speed.latency["batch_size"]), (place, speed))

    def same_weights(self, own: dict[str, Record]) -> dict[str, Record]:
        """The records of the first row that has the weights of one of a row's."""
        found = [self.by_weights[checkpoint] for checkpoint in _weights(own) if checkpoint in self.by_weights]
        return min(found, key=lambda one: one[0])[1] if found else {}

    def timed_alike(self, own: dict[str, Record]) -> Record | None:
        """The speed record that a row's time is compared with: the first of the same weights and batch size."""
        if (mine := own.get("speed")) is None:
            return None
        keys = [(checkpoint, mine.latency["batch_size"]) for checkpoint in _weights(own)]
        found = [self.by_time[key] for key in keys if key in self.by_time]
        return min(found, key=lambda one: one[0])[1] if found else None


def _weights(kinds: dict[str, Record]) -> set[str]:
    return {record.checkpoint for record in kinds.values()}


def _quality(record: Record | None, first: Record | None) -> Row:
    if record is None:
        return {}
    macs, with_attention = _macs(record), _macs(record, "fvcore")
    figures: Row = {
        "model": str(record.config.get("model", "")),
        "steps": _total_steps(record.config),
        "network_calls": record.counts.get("network calls"),
    }
    for name, value in record.metrics.items():
        figures[name] = value.value
        figures[f"{name}_spread"] = value.spread
        if value.interval is not None:
            figures[f"{name}_low"], figures[f"{name}_high"] = value.interval
    figures |= _quarters(record)
    return figures | {
        "macs_g": None if macs is None else macs / 1e9,
        "macs_g_spread": spread / 1e9 if (spread := record.macs_spread.get("denoiser", {}).get("dense")) else None,
        "macs_t": None if macs is None else macs / 1e12,
        "macs_g_fvcore": None if with_attention is None else with_attention / 1e9,
        "macs_saving": _ratio(_macs(first) if first else None, macs),
        "n_done": record.n_done,
        "n_asked": record.n_asked,
        "seeds": len(record.seeds),
        "device": record.device,
        "commit": record.git.get("commit"),
    }


def _quarters(record: Record) -> Row:
    """Scores of the clean estimate after each quarter of the steps: `<metric>_at_<step>`, mean over seeds."""
    figures: Row = {}
    for name, by_seed in record.curves.items():
        curves = [[value for value in curve if value is not None] for curve in by_seed.values()]
        if {len(curve) for curve in curves} != {len(curve) for curve in by_seed.values()}:
            continue  # at some step the estimate could not be scored
        steps = len(curves[0])
        for step in sorted({max(1, round(steps * quarter / 4)) for quarter in (1, 2, 3, 4)}):
            figures[f"{name}_at_{step}"] = sum(curve[step - 1] for curve in curves) / len(curves)
    return figures


def _notes(own: dict[str, Record], first: dict[str, Record], timed_first: Record | None) -> list[str]:
    quality, baseline = own.get("quality"), first.get("quality")
    if quality is None:
        return ["speed alone" if "speed" in own else "no record"]
    notes = []
    if changed := [f"{key}={_short(value)}" for key, value in quality.changed.items() if key not in ASIDE]:
        notes.append(f"not as in the experiment file, {', '.join(changed)}")
    if not quality.full:
        notes.append(f"partial, {quality.n_done} of {quality.n_asked} pictures")
    if any(record.dirty for record in own.values()):
        notes.append("uncommitted code")
    if len({record.device.partition(",")[0] for record in (*own.values(), *first.values())}) > 1:
        notes.append("mixed devices")
    if baseline and (quality.prompts, quality.seeds) != (baseline.prompts, baseline.seeds):
        notes.append("other prompts or seeds than the first row")
    if timed_first is not None and own["speed"].latency["session"] != timed_first.latency["session"]:
        notes.append("not timed together with the first row")
    return notes


def _total_steps(config: Mapping[str, Any]) -> Any:
    """Steps of all stages together, from a config as records keep it; its `steps` where there are no stages."""
    stages = config.get("stages")
    return sum(stage["steps"] for stage in stages.values()) if stages else config.get("steps")


def _short(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def _macs(record: Record, convention: str = "dense") -> int | None:
    return record.macs.get("denoiser", {}).get(convention)


def _ratio(first: float | None, own: float | None) -> float | None:
    return first / own if first and own else None
