"""Where the time of an experiment's rows goes, beside where their MACs go: which groups save less time than work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from postdiff.lab.bench.turns import limit_of, told

from postdiff.cost import macs
from postdiff.cost.latency import seconds
from postdiff.cost.stopwatch import BEFORE, TimeProfile, middle
from postdiff.cost.tally import Cell, Tally
from postdiff.cost.time_limit import TimeLimit
from postdiff.cost.time_profile import touched, watch
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.plan import Plan, plan_rows, same_weights
from postdiff.lab.progress import bar
from postdiff.lab.records import job_record
from postdiff.lab.sampling.pipelines import Pipelines

__all__ = ["Profiled", "profile", "write"]


@dataclass
class Profiled:
    """One row.

    Attributes:
        plan: the row.
        pictures: in one call.
        work: MACs of a call, convention `all`, by the cells of `time`.
        times: of every call under the stopwatch.
        bare: seconds of as many calls without it.
    """

    plan: Plan
    pictures: int
    work: dict[Cell, int]
    times: list[TimeProfile] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def time(self) -> TimeProfile:
        """The median of each cell."""
        return middle(self.times)

    @property
    def bare_s(self) -> float:
        """Seconds of a call that nobody watches, the median."""
        return median(self.bare)


def profile(experiment: Experiment) -> list[Profiled]:
    """Profile all rows whose `bench.repeats` is not 0; rows on the same weights in turns, so that drift hits all alike.

    Raises:
        UsageError: a mistake in the experiment, nothing to time, a network that is compiled, or not one whole round in
            `bench.seconds`.
    """
    folders.writable_outputs()
    plans = [plan for plan in plan_rows(experiment) if plan.config.bench.repeats]
    if not plans:
        raise UsageError("bench.repeats=0 leaves nothing to time; use bench.repeats=5")
    for plan in plans:
        if plan.config.network.compile:
            raise UsageError(
                f"row '{plan.name}': inside compiled blocks no module can be timed; use network.compile=false"
            )
    limit, groups = limit_of(plans), same_weights(plans)
    found: dict[str, Profiled] = {}
    for place, group in enumerate(groups):
        with told(group, limit, len(groups) - place):
            found |= {one.plan.name: one for one in _in_turns(group, limit.part(len(groups) - place))}
    return [found[plan.name] for plan in plans]


def write(experiment: Experiment, rows: Sequence[Profiled], file: Path) -> None:
    """Every cell of every row as JSON, with device and versions.

    A cell is {part, step, group, seconds, macs}; step -1 is before the first network call, the last one after the
    last solver call.
    """
    content = {
        "experiment": experiment.name,
        "made": job_record.now(),
        "device": provenance.device_name(rows[0].plan.config.device),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "convention": "all",
        "rows": [_described(one) for one in rows],
    }
    with folders.whole_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _in_turns(plans: Sequence[Plan], limit: TimeLimit) -> list[Profiled]:
    repeats = max(plan.config.bench.repeats for plan in plans)
    warmup = max(plan.config.bench.warmup for plan in plans)
    # A pipeline is shared, and a call hands it the row's own scheduler: right before a row is counted or watched, it is
    # called. So the first two calls of each row warm it up, however little is asked for.
    with bar("profile", len(plans) * (2 + warmup + 2 * repeats), "call") as shown:
        rows, calls = [], []
        held: dict[Any, Pipelines] = {}
        for plan in plans:
            sampler, size = held.setdefault(plan.variant, Pipelines()).sampler(plan), plan.config.bench.batch_size
            call = partial(sampler.call, list(itertools.islice(itertools.cycle(plan.samples), size)))
            modules = touched(sampler.pipe, call)
            rows.append(Profiled(plan, size, _cells(macs.tally(sampler.pipe, call))))
            calls.append((sampler.pipe, call, modules))
            shown.update(2)
            limit.need(limit.gone / len(rows) * (len(plans) - len(rows)))
        for turn in range(warmup + repeats):
            if turn > warmup and limit.left < 0:
                break
            for row, (pipe, call, modules) in zip(rows, calls, strict=True):
                spent = seconds(call, pipe)
                if turn >= warmup:
                    row.bare.append(spent)
                    row.times.append(watch(pipe, call, modules))
                shown.update(1 + (turn >= warmup))
    return rows


def _cells(tally: Tally) -> dict[Cell, int]:
    """Work by the cells of a time profile, where what precedes the first network call has a step of its own."""
    first = {(part, step) for part, step, _ in tally.cells if step == 0 and not part.startswith("denoiser")}
    return {
        (part, BEFORE if (part, step) in first else step, group): work.all
        for (part, step, group), work in tally.cells.items()
    }


def _described(one: Profiled) -> dict[str, Any]:
    spent = one.time
    cells = {**dict.fromkeys(spent.cells), **dict.fromkeys(one.work)}
    return {
        "row": one.plan.name,
        "label": one.plan.row.label,
        "run_id": one.plan.speed_id,
        "config": one.plan.resolved(),
        "pictures": one.pictures,
        "repeats": len(one.times),
        "steps": spent.steps,
        "wall_s": spent.wall_s,
        "bare_s": one.bare_s,
        "cells": [
            {
                **dict(zip(("part", "step", "group"), cell, strict=True)),
                "seconds": spent.cells.get(cell, 0.0),
                "macs": one.work.get(cell, 0),
            }
            for cell in sorted(cells)
        ],
    }
