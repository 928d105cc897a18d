"""What a method with a calibrated schedule must know of a model, a solver and a number of steps.

    python experiments/calibrate.py block_cache
    python experiments/calibrate.py mixed_resolution count=256
    python experiments/calibrate.py mag_cache model=pixart_sigma data=parti_prompts steps=20 count=1

key=value words are those of `postdiff run`. The file, outputs/calibrations/<method>_<model>_<solver>_<steps>.json
unless --out names another, is what the method's option is given: `{block_cache: {changes: FILE}}`,
`{mag_cache: {ratios: FILE}}`, `{mixed_resolution: {switch: auto, spectrum: FILE}}`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis.calibration import BlockChanges, MagnitudeRatios
from postdiff.lab.analysis.latent_power import LatentPower
from postdiff.lab.analysis.observation import job_of, observe
from postdiff.lab.config.layers import from_words
from postdiff.lab.files import folders

DEFAULTS = {"model": "emoji", "data": "emoji", "scheduler": "ddim", "steps": 50, "count": 16, "batch_size": 8}
# Method: what observes, and the key of its file, which is also the method's option.
OBSERVERS: dict[str, tuple[Any, str]] = {
    "block_cache": (BlockChanges, "changes"),
    "mag_cache": (MagnitudeRatios, "ratios"),
    "mixed_resolution": (LatentPower, "spectrum"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write the file; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(OBSERVERS))
    parser.add_argument("--out", help="where to write")
    given, rest = parser.parse_known_args(words)
    quiet.quiet()
    try:
        plan = job_of("calibration", given.method, DEFAULTS, from_words(rest), {"methods": []})
        folders.writable_outputs()
        cls, key = OBSERVERS[given.method]
        observer = cls()
        observe(plan, [observer], f"calibration of {given.method}")
        solver = plan.config.scheduler.name or "own"
        model = re.sub(r"[^A-Za-z0-9_.-]+", "_", plan.config.model)
        usual = folders.outputs() / "calibrations" / f"{given.method}_{model}_{solver}_{plan.config.steps}.json"
        file = Path(given.out) if given.out else usual
        of = {
            "checkpoint": plan.checkpoint,
            "scheduler": solver,
            "steps": plan.config.steps,
            "prompts": plan.prompts_hash,
        }
        content = {"method": given.method, "of": of, key: observer.values()}
        with folders.atomic_write(file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except UsageError as error:
        print(f"postdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {file}; use it as {{{given.method}: {{{key}: {file}}}}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
