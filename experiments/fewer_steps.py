"""Images at fewer and fewer steps, plain and with Faster Diffusion (its Figs. 7, 13 and 14).

    python experiments/fewer_steps.py
    python experiments/fewer_steps.py model=emoji count=4

key=value words are those of `postdiff run`. Images that other runs have left in outputs/ are used again. The record
and all its images go to outputs/records/faster_diffusion/features/; paper_figures/ lays them out.

Key steps: the paper's sets at 50 and 20 steps; elsewhere, where it gives none, its set for 50 steps shrunk to the run,
or every 2nd step where that would make more than half of all steps keys.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis import findings
from postdiff.lab.analysis.observation import generated_images, job_of
from postdiff.lab.config.layers import from_words
from postdiff.lab.config.schema import digest
from postdiff.lab.files import folders
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.records.stored import now
from postdiff.methods.encoder_propagation.key_steps import KEY_SETS

EXPERIMENT = "faster_diffusion/features"
NAME = "fewer_steps"
DEFAULTS = {"model": "emoji", "data": "emoji", "count": 4, "batch_size": 4}
SWEEP = (50, 40, 30, 20, 15, 10, 5)
# Solver: steps of the full run, and the fewer ones that the paper sets against Faster Diffusion (Tables 11 and 12).
FEWER = {"ddim": (50, 25, 9), "dpm_solver": (20, 10)}


def keys(steps: int) -> str | list[int]:
    """Key steps of a run of so many steps, as `EncoderPropagation` takes them."""
    if steps in (50, 20):
        return f"sd_{steps}"
    shrunk = sorted({math.floor(step * steps / 50 + 0.5) for step in KEY_SETS["sd_50"].steps})
    return shrunk if 2 * len(shrunk) <= steps else list(range(0, steps, 2))


def settings() -> dict[str, dict[str, Any]]:
    """Config of every setting, by name: <solver>_<steps>, with _ours or _noise for Faster Diffusion or noise alone."""
    found: dict[str, dict[str, Any]] = {}
    for solver, (_, *fewer) in FEWER.items():
        for steps in (*SWEEP, *fewer):
            found[f"{solver}_{steps}"] = {"scheduler": solver, "steps": steps, "methods": []}
        for steps in SWEEP:
            ours = [{"encoder_propagation": {"keys": keys(steps)}}, "noise_injection"]
            found[f"{solver}_{steps}_ours"] = {"scheduler": solver, "steps": steps, "methods": ours}
        for steps in fewer:
            found[f"{solver}_{steps}_noise"] = {"scheduler": solver, "steps": steps, "methods": ["noise_injection"]}
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Generate and write the record; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, rest = parser.parse_known_args(words)
    quiet.quiet()
    try:
        given = from_words(rest)
        jobs = {name: job_of(EXPERIMENT, name, DEFAULTS, given, each) for name, each in settings().items()}
        folders.writable_outputs()
        started, pipelines = now(), Pipelines()
        images = {name: generated_images(job, pipelines).permute(0, 2, 3, 1).numpy() for name, job in jobs.items()}
    except UsageError as error:
        print(f"postdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    first = next(iter(jobs.values()))
    found = {
        "prompts": [sample.prompt for sample in first.samples],
        "keys": {
            name: job.resolved()["methods"][0]["encoder_propagation"]["keys"]
            for name, job in jobs.items()
            if name.endswith("_ours")
        },
        "fewer": {solver: list(steps) for solver, steps in FEWER.items()},
        "sweep": list(SWEEP),
    }
    run_id = digest([job.run_id for job in jobs.values()])
    record = findings.found_by(first, NAME, run_id, started, {"settings": settings()}, found, **images)
    record.write(file := findings.fresh_path(EXPERIMENT, NAME))
    print(f"wrote {file} and its images", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
