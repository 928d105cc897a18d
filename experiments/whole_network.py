"""What of a cache's closeness is its fill's, its rule's and its number of calls': rows compared image by image.

    python experiments/whole_network.py

Reads the values of single images that `postdiff run whole_network` has left in outputs/, and generates once more, for
the number of network calls; a record of the same rows that is there already tells it. Each difference of PSNR is a mean
over images, with a 95 % interval of 10,000 resamples. Fewer steps and even masks, with which the others are compared,
are interpolated between the numbers of calls that have been run. The record goes to outputs/records/whole_network/.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis import findings
from postdiff.lab.config.experiment import load
from postdiff.lab.config.schema import digest
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.macs.row_macs import adaptive
from postdiff.lab.plan.plan import Plan, plan_rows
from postdiff.lab.records import record
from postdiff.lab.records.stored import now

EXPERIMENT, NAME = "whole_network", "differences"
METRIC, RESAMPLES = "paired_psnr", 10_000
NEAR = 0.1  # so few calls more or less than those of the last mask are none
EVEN, HELD = "even", "output"  # the rule and the fill that others are compared with
Values = np.ndarray  # of all images, in their order


def values(row: str) -> Values:
    """The metric of every image of a row.

    Raises:
        UsageError: the row has not been run here.
    """
    file = record.fresh_path(EXPERIMENT, row).with_suffix(".csv")
    if not file.is_file():
        raise UsageError(f"there is no {file}; make it with 'postdiff run {EXPERIMENT} --rows {row}'")
    with file.open(newline="") as stream:
        return np.array([float(each[METRIC]) for each in csv.DictReader(stream)])


def calls(plan: Plan, pipelines: Pipelines) -> float:
    """Network calls of an image in the mean over all images."""
    sampler, size, rows = pipelines.sampler(plan), plan.config.batch_size, 0
    for begin in range(0, len(plan.samples), size):
        sampler.call(plan.samples[begin : begin + size])
        rows += sampler.fast.counts["network rows"]
        if not adaptive(plan):
            return float(sampler.fast.counts["network calls"])
    return rows / len(plan.samples) / 2  # both branches of guidance


def named(row: str) -> tuple[str, str, str]:
    """(rule, fill, calls asked for); (steps, "", number)."""
    rule, _, rest = row.partition("_")
    fill, _, budget = rest.rpartition("_")
    return rule, fill, budget


def at_calls(known: Mapping[float, Values], wanted: float) -> Values | None:
    """Every image's value, interpolated between the neighbours among {calls: values}; None beyond them all."""
    below = max((number for number in known if number <= wanted), default=None)
    above = min((number for number in known if number >= wanted), default=None)
    if below is None or above is None:
        edge = above if below is None else below
        return known[edge] if edge is not None and abs(edge - wanted) < NEAR else None
    if below == above:
        return known[below]
    share = (wanted - below) / (above - below)
    return (1 - share) * known[below] + share * known[above]


def compared(one: Values, other: Values) -> dict[str, float]:
    """The mean of one less the other, and the bounds of its interval."""
    each = one - other
    drawn = np.random.default_rng(0).integers(len(each), size=(RESAMPLES, len(each)))
    low, high = np.quantile(each[drawn].mean(1), (0.025, 0.975))
    return {"mean": float(each.mean()), "low": float(low), "high": float(high)}


def differences(known: Mapping[str, Values], cost: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """{what is compared: {row: how far it is ahead of another}}.

    "steps": fewer steps of as many calls; "fill": the same rule with the output held; "rule": the even mask of as many
    calls with the same fill.
    """
    found: dict[str, dict[str, Any]] = {"steps": {}, "fill": {}, "rule": {}}
    steps = {cost[row]: known[row] for row in known if named(row)[0] == "steps"}
    for row in known:
        rule, fill, budget = named(row)
        if rule == "steps":
            continue
        if (fewer := at_calls(steps, cost[row])) is not None:
            found["steps"][row] = {"against": "steps", **compared(known[row], fewer)}
        if fill != HELD and (other := f"{rule}_{HELD}_{budget}") in known:
            found["fill"][row] = {"against": other, **compared(known[row], known[other])}
        even = {cost[other]: known[other] for other in known if named(other)[:2] == (EVEN, fill)}
        if rule != EVEN and (mask := at_calls(even, cost[row])) is not None:
            found["rule"][row] = {"against": f"{EVEN}_{fill}", **compared(known[row], mask)}
    return found


def measured(plans: Sequence[Plan], cost: Mapping[str, float]) -> dict[str, Any]:
    """What the record holds; numbers of calls that are known are taken over.

    Raises:
        UsageError: a row has not been run here.
    """
    known = {plan.name: values(plan.name) for plan in plans[1:]}  # the first is what all are compared with
    pipelines = Pipelines()
    cost = cost or {plan.name: calls(plan, pipelines) for plan in plans[1:]}
    return {"calls": cost, "differences": differences(known, cost)}


def main() -> int:
    """Compare, write the record and print it; gives the exit code."""
    quiet.quiet()
    started, file = now(), findings.fresh_path(EXPERIMENT, NAME)
    try:
        plans = plan_rows(load(EXPERIMENT))
        run_id = digest([plan.run_id for plan in plans])
        there = findings.Findings.read(file) if file.is_file() else None
        found = measured(plans, there.found["calls"] if there and there.run_id == run_id else {})
    except UsageError as error:
        print(f"postdiff: error: {error}", file=sys.stderr)
        return 2
    settings = {"metric": METRIC, "resamples": RESAMPLES}
    findings.found_by(plans[0], NAME, run_id, started, settings, found).write(file)
    print(f"wrote {file}", file=sys.stderr)
    for kind, rows in found["differences"].items():
        print(kind)
        for row, each in rows.items():
            number = "{mean:+6.2f} [{low:+6.2f}, {high:+6.2f}] against {against}".format(**each)
            print(f"  {row:22} {found['calls'][row]:5.2f} calls {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
