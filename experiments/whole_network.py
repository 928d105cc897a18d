"""What of a cache's closeness is its fill's, its rule's and its number of calls': rows compared image by image.

    python experiments/whole_network.py

Reads the values of single images that `postdiff run whole_network` has left in outputs/. Each difference of PSNR is the
mean over the images that both rows share, with a 95 % interval of 10,000 resamples. The record goes to
outputs/records/whole_network/.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping

import numpy as np

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis import findings
from postdiff.lab.config.experiment import load
from postdiff.lab.config.schema import digest
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records import record
from postdiff.lab.records.stored import now

EXPERIMENT, NAME = "whole_network", "differences"
METRIC, RESAMPLES = "paired_psnr", 10_000
PLAIN = ("even", "output")  # what fewer steps and other fills are compared with


def values(row: str) -> dict[tuple[str, str], float]:
    """{(prompt's index, seed): the metric} of a row.

    Raises:
        UsageError: the row has not been run here.
    """
    file = record.fresh_path(EXPERIMENT, row).with_suffix(".csv")
    if not file.is_file():
        raise UsageError(f"there is no {file}; make it with 'postdiff run {EXPERIMENT} --rows {row}'")
    with file.open(newline="") as stream:
        return {(each["index"], each["seed"]): float(each[METRIC]) for each in csv.DictReader(stream)}


def pairs(names: list[str]) -> dict[str, dict[str, str]]:
    """{"calls" | "fill" | "rule": {row: the row that differs from it in that alone}}."""
    found: dict[str, dict[str, str]] = {"calls": {}, "fill": {}, "rule": {}}
    for name in names:
        first, _, rest = name.partition("_")
        fill, _, budget = rest.partition("_")
        others = {
            "calls": f"steps_{budget}" if (first, fill) == PLAIN else "",
            "fill": f"{first}_{PLAIN[1]}_{budget}" if fill != PLAIN[1] else "",
            "rule": f"{PLAIN[0]}_{fill}_{budget}" if first != PLAIN[0] else "",
        }
        for kind, other in others.items():
            if budget and other in names:
                found[kind][name] = other
    return found


def compared(one: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """The mean of one less the other, and the bounds of its interval."""
    shared = sorted(one.keys() & other.keys())
    each = np.array([one[key] - other[key] for key in shared])
    drawn = np.random.default_rng(0).integers(len(each), size=(RESAMPLES, len(each)))
    low, high = np.quantile(each[drawn].mean(1), (0.025, 0.975))
    return {"mean": float(each.mean()), "low": float(low), "high": float(high), "images": len(each)}


def main() -> int:
    """Compare, write the record and print it; gives the exit code."""
    quiet.quiet()
    started, plans = now(), plan_rows(load(EXPERIMENT))
    try:
        asked = pairs([plan.name for plan in plans])
        known = {plan.name: values(plan.name) for plan in plans if plan.name != "steps_20"}
    except UsageError as error:
        print(f"postdiff: error: {error}", file=sys.stderr)
        return 2
    found = {
        kind: {row: {"against": other, **compared(known[row], known[other])} for row, other in each.items()}
        for kind, each in asked.items()
    }
    run_id, settings = digest([plan.run_id for plan in plans]), {"metric": METRIC, "resamples": RESAMPLES}
    findings.found_by(plans[0], NAME, run_id, started, settings, found).write(
        file := findings.fresh_path(EXPERIMENT, NAME)
    )
    print(f"wrote {file}", file=sys.stderr)
    for kind, rows in found.items():
        print(kind)
        for row, each in rows.items():
            print(
                f"  {row:24} {each['mean']:+6.2f} [{each['low']:+6.2f}, {each['high']:+6.2f}] against {each['against']}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
