"""Give committed times of an experiment today's id, where all that they were taken with is what is asked for today.

    python -m experiments.renew_times demo

A method may have got options since; at their defaults it does what it did. Such a record gets these options spelt out
and the id that follows from them. No number changes, and a record of other settings is left as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from postdiff import presets
from postdiff.lab.config import experiment
from postdiff.lab.plan.plan import Plan, plan_rows

COMMITTED = Path(__file__).parent / "records"
SETTINGS = ("model", "data", "steps", "guidance_scale", "height", "width", "dtype", "bench")


def renewed(record: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """A speed record with today's options and id.

    Raises:
        ValueError: it is of other weights or settings than the plan.
    """
    config, asked = record["config"], plan.resolved()
    methods = presets.describe(presets.build_methods(config["methods"]))
    found = {**{name: config[name] for name in SETTINGS}, "methods": methods, "checkpoint": record["checkpoint"]}
    wanted = {**{name: asked[name] for name in (*SETTINGS, "methods")}, "checkpoint": plan.checkpoint}
    wanted["bench"] = {name: wanted["bench"][name] for name in found["bench"]}
    if differing := [name for name in wanted if found[name] != wanted[name]]:
        raise ValueError(f"{plan.name} was timed with other {', '.join(differing)}")
    return {**record, "run_id": plan.speed_id, "config": {**config, "methods": methods}}


def main(words: Sequence[str] | None = None) -> int:
    """Renew the committed times of an experiment; gives the exit code, 1 if some are of other settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--records", type=Path, default=COMMITTED, help="folder of records by experiment")
    given = parser.parse_args(words)
    failed = 0
    for plan in plan_rows(experiment.load(given.experiment)):
        file = given.records / given.experiment / f"{plan.name}.speed.json"
        if not file.is_file():
            continue
        before = json.loads(file.read_text())
        try:
            after = renewed(before, plan)
        except ValueError as error:
            print(f"{file}: left as it is: {error}", file=sys.stderr)
            failed = 1
            continue
        if after != before:
            file.write_text(json.dumps(after, indent=1, allow_nan=False) + "\n")
            print(f"{plan.name}: {before['run_id']} is {after['run_id']} now")
    return failed


if __name__ == "__main__":
    sys.exit(main())
