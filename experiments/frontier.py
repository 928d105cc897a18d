"""Fewer steps or cheaper steps: every family of methods against fewer steps, over work and over time.

    python experiments/frontier.py                                # frontier, and frontier_adaptive where it was run
    python experiments/frontier.py frontier_transformer frontier_adaptive

Reads the records, and the values of single images beside them, that `postdiff run` of these experiments has left in
outputs/; rows that are missing are left out. Times are read where `postdiff bench` has left them, all rows in one
session. A family is the first part of a row's label, and a label of one part is fewer steps. Where a family crosses
fewer steps, and how far it is ahead at some budgets, has a 95 % interval over prompts, by 1,000 resamples, in each of
which the best settings are chosen anew (`postdiff.lab.analysis.crossings`).

The record goes to outputs/records/<first experiment>/crossings.json, and is all that the figure and the tables need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis import findings
from postdiff.lab.analysis.crossings import Settings, compare, drawn, spread
from postdiff.lab.config.experiment import load
from postdiff.lab.config.schema import digest
from postdiff.lab.devices import provenance
from postdiff.lab.records import image_values, record
from postdiff.lab.records.record import Record
from postdiff.lab.records.stored import now
from postdiff.metrics import facts

EXPERIMENTS, NAME = ("frontier", "frontier_adaptive"), "crossings"
CLOSENESS, FEWER = "paired_lpips", "fewer steps"
RESAMPLES = 1000
SAVINGS = (1.5, 2.0, 3.0, 4.0)  # times less than the full run, at which families are compared
Values = np.ndarray


@dataclass(frozen=True)
class Row:
    """What is known of a setting.

    Attributes:
        name: of the row.
        label: its parts are family, setting, number of steps.
        record: of its quality.
        seconds: of an image; None if it was not timed.
        time: that as a share of the full run's, which was timed in turns with it.
        values: {metric: (prompts,), means over seeds}.
    """

    name: str
    label: str
    record: Record
    seconds: float | None
    time: float | None
    values: Mapping[str, Values]

    @property
    def family(self) -> str:
        """What it is compared as."""
        family, comma, _ = self.label.partition(",")
        return family if comma else FEWER

    @property
    def setting(self) -> str:
        """The family and how it is set, without the number of steps."""
        return FEWER if self.family == FEWER else self.label.rpartition(",")[0].strip()


def rows_of(experiments: Sequence[str]) -> list[Row]:
    """What was run whole, in the order of the files.

    Raises:
        UsageError: nothing was, or rows are not of the same images.
    """
    found: dict[str, Row] = {}
    for experiment in experiments:
        rows = load(experiment).rows
        full = _speed(experiment, rows[0].name)
        for row in rows:
            own = record.fresh_path(experiment, row.name)
            if row.name in found or not own.is_file() or not (made := Record.read(own)).full:
                continue
            if found and _images(made) != _images(next(iter(found.values())).record):
                raise UsageError(
                    f"row '{row.name}' of {experiment} is of another model, prompts or seeds; run it again"
                )
            speed = _speed(experiment, row.name)
            seconds = None if speed is None else float(speed.latency["median_s"])
            together = full and speed and full.latency["session"] == speed.latency["session"]
            time = seconds / full.latency["median_s"] if together and full and seconds else None
            found[row.name] = Row(row.name, row.label, made, seconds, time, _values(made))
    if not found:
        raise UsageError(f"no row of {experiments[0]} has been run here; begin with 'postdiff run {experiments[0]}'")
    return list(found.values())


def _images(made: Record) -> tuple[str, str, list[int]]:
    return made.checkpoint, made.prompts, made.seeds


def _speed(experiment: str, row: str) -> Record | None:
    file = record.fresh_path(experiment, row, "speed")
    return Record.read(file) if file.is_file() else None


def _values(made: Record) -> dict[str, Values]:
    """Metrics of single images, each prompt's mean over its seeds."""
    found = image_values.by_prompt(made, list(made.metrics))
    if found is None:
        file = record.fresh_path(made.experiment, made.row).with_suffix(".csv")
        raise UsageError(f"{file} is not what its record was made with; run the row again with --fresh")
    return found


def score_of(rows: Sequence[Row]) -> str | None:
    """The first metric of single images that looks at no reference run and that all rows have; None without one."""
    known = [name for name in rows[0].values if not name.startswith("paired_")]
    return next((name for name in known if all(name in row.values for row in rows)), None)


def compared(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    """What the record holds: costs as shares of the first row's, means, and how families stand to fewer steps.

    Raises:
        UsageError: a metric is missing in a row, or there are no fewer steps.
    """
    if not any(row.family == FEWER for row in rows[1:]) or rows[0].family != FEWER:
        raise UsageError(
            "the full run and fewer steps have not been run, with which all is compared; run those rows too"
        )
    for row in rows:
        if missing := [metric for metric in metrics if metric not in row.values]:
            raise UsageError(f"row '{row.name}' has no {missing[0]} of single images; add it with 'postdiff score'")
    full, prompts = rows[0], len(next(iter(rows[0].values.values())))
    weights = drawn(prompts, RESAMPLES)
    work = [row.record.denoiser_macs("dense") or 0 for row in rows]
    shares = {"macs": np.array(work) / work[0]}
    if all(row.time for row in rows):
        shares["time"] = np.array([row.time for row in rows], float)
    shown = {}
    for place, row in enumerate(rows):
        own: dict[str, Any] = {cost: float(each[place]) for cost, each in shares.items()}
        for metric in metrics:
            own[metric] = [float(row.values[metric].mean()), *spread(row.values[metric], weights)]
        shown[row.name] = {"label": row.label, "family": row.family, "setting": row.setting, **own}
    return {
        "full": {"label": full.label, "macs": work[0], "seconds": full.seconds},
        "reference_steps": full.record.config["reference_steps"],
        "prompts": prompts, "seeds": len(full.record.seeds),
        "metrics": {name: {"title": facts(name).title, "higher": facts(name).higher_is_better} for name in metrics},
        "rows": shown,
        **{kind: _kinds(rows, metrics, shares, weights, kind) for kind in ("family", "setting")},
    }  # fmt: skip


def _kinds(
    rows: Sequence[Row], metrics: Sequence[str], shares: Mapping[str, Values], weights: Values, kind: str
) -> dict[str, Any]:
    """{metric: {cost: {family or setting: how it stands to fewer steps}}}."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(getattr(row, kind), []).append(place)
    found: dict[str, Any] = {}
    for metric in metrics:
        distance = not facts(metric).higher_is_better
        table = np.array([row.values[metric] for row in rows])
        for cost, own in shares.items():
            fewer = Settings(own[groups[FEWER]], table[groups[FEWER]])
            at = [1 / saving for saving in SAVINGS]
            table_of = found.setdefault(metric, {}).setdefault(cost, {})
            for name, places in groups.items():
                if name != FEWER:
                    made = compare(fewer, Settings(own[places], table[places]), weights, at, distance=distance)
                    table_of[name] = {"settings": len(places), **_plain(made)}
    return found


def _plain(comparison: Any) -> dict[str, Any]:
    return {
        **{key: getattr(comparison, key) for key in ("least", "most", "ahead")},
        **{key: [vars(each) for each in getattr(comparison, key)] for key in ("crossings", "gains")},
    }


def gathered(experiments: Sequence[str], score: str | None, started: str) -> findings.Findings:
    """The record.

    Raises:
        UsageError: see `rows_of` and `compared`.
    """
    rows = rows_of(experiments)
    metrics = [CLOSENESS, *(each for each in [score or score_of(rows)] if each)]
    first = rows[0].record
    return findings.Findings(
        experiment=experiments[0],
        name=NAME,
        run_id=digest([row.record.run_id for row in rows]),
        config=first.config,
        checkpoint=first.checkpoint,
        prompts=first.prompts,
        samples=first.n_done,
        settings={"resamples": RESAMPLES, "savings": list(SAVINGS), "experiments": list(experiments)},
        found=compared(rows, metrics),
        device=first.device,
        started=started,
        ended=now(),
        git=provenance.git(),
        versions=provenance.versions(),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Compare, write the record and say where families cross; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS), metavar="EXPERIMENT")
    parser.add_argument(
        "--score", help="a metric of single images without reference; the first that there is, if left out"
    )
    options = parser.parse_args(words)
    quiet.quiet()
    file = findings.fresh_path(options.experiments[0], NAME)
    try:
        made = gathered(options.experiments, options.score, now())
    except UsageError as error:
        print(f"postdiff: error: {error}", file=sys.stderr)
        return 2
    made.write(file)
    print(f"wrote {file}", file=sys.stderr)
    for metric, costs in made.found["family"].items():
        for cost, families in costs.items():
            print(f"{metric} over {cost}, {len(made.found['rows'])} settings")
            for name, own in families.items():
                print(f"  {name:24} {said(own)}")
    return 0


def said(own: Mapping[str, Any]) -> str:
    """One family's stand in words."""
    if not own["crossings"]:
        return f"{'ahead' if own['ahead'] > 0.5 else 'behind'} throughout" if own["most"] > own["least"] else "-"
    each = (
        f"{'ahead' if crossing['below'] else 'behind'} beyond {1 / crossing['cost']:.2f}x "
        f"[{1 / crossing['high']:.2f}, {1 / crossing['low']:.2f}]"
        for crossing in islice(own["crossings"], 3)
    )
    return ", ".join(each)


if __name__ == "__main__":
    sys.exit(main())
