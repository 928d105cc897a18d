"""What encoder propagation takes from the spectrum of images, and prior noise gives back (Faster Diffusion, Fig. 6).

    python experiments/noise_spectrum.py
    python experiments/noise_spectrum.py model=emoji scheduler=ddim steps=50 count=32 --keys sd_50 --alpha 0.003

key=value words are those of `postdiff run`. Images that other runs have left in outputs/ are used again; the record
goes to outputs/records/faster_diffusion/features/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
import yaml
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis import findings
from postdiff.lab.analysis.observation import generated_images, job_of
from postdiff.lab.analysis.spectrum import frequencies, log_amplitudes
from postdiff.lab.config.layers import from_words
from postdiff.lab.config.schema import digest
from postdiff.lab.files import folders
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.records.stored import now

EXPERIMENT = "faster_diffusion/features"
NAME = "noise_spectrum"
DEFAULTS = {"model": "emoji", "data": "emoji", "scheduler": "ddim", "steps": 50, "count": 32, "batch_size": 8}


def main(words: Sequence[str] | None = None) -> int:
    """Generate, measure, write the record and print how the spectra differ; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="sd_50", help="key steps: a published set, a stride or [0,1,...]")
    parser.add_argument("--alpha", type=float, default=0.003, help="share of the initial noise injected")
    parser.add_argument("--stronger", type=float, default=0.03, help="another, to see its effect; 0: none")
    given, rest = parser.parse_known_args(words)
    quiet.quiet()
    try:
        measure(given, from_words(rest))
    except UsageError as error:
        print(f"postdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def settings(given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The stacks of methods compared, by label."""
    propagation = {"encoder_propagation": {"keys": yaml.safe_load(given.keys)}}
    found: dict[str, list[dict[str, Any]]] = {"baseline": [], "propagation": [propagation]}
    for alpha in (given.alpha, given.stronger):
        if alpha:
            found[f"propagation, noise {alpha:g}"] = [propagation, {"noise_injection": {"alpha": alpha}}]
    return found


def measure(given: argparse.Namespace, words: dict[str, Any]) -> None:
    """Write the record.

    Raises:
        UsageError: a mistake in the settings.
    """
    stacks = settings(given)
    jobs = {label: job_of(EXPERIMENT, label, DEFAULTS, words, {"methods": stack}) for label, stack in stacks.items()}
    folders.writable_outputs()
    started, pipelines = now(), Pipelines()
    spectra: dict[str, Tensor] = {}
    for label, job in jobs.items():
        images = generated_images(job, pipelines).float() / 255
        spectra[label] = log_amplitudes(images)
    base = jobs["baseline"]
    against = {label: rows - spectra["baseline"] for label, rows in spectra.items() if label != "baseline"}
    found = {
        "frequencies": frequencies(min(images.shape[-2:])),
        "log_amplitude": {label: _spread(rows) for label, rows in spectra.items()},
        "difference": {label: _spread(rows) for label, rows in against.items()},
    }
    run_id = digest([job.run_id for job in jobs.values()])
    record = findings.found_by(base, NAME, run_id, started, {"methods": stacks}, found)
    record.write(file := findings.fresh_path(EXPERIMENT, NAME))
    print(f"wrote {file}", file=sys.stderr)
    print("log10 amplitude against the baseline, mean over images (standard error), by thirds of the frequencies")
    for label, rows in against.items():
        thirds = [part.mean(1) for part in rows[:, 1:].tensor_split(3, dim=1)]
        message = "  ".join(
            f"{float(part.mean()):+.4f} ({float(part.std() / len(part) ** 0.5):.4f})" for part in thirds
        )
        print(f"{label:28} {message}")


def _spread(rows: Tensor) -> dict[str, Tensor]:
    """Mean over images, their standard deviation, and the standard error of the mean, by frequency."""
    std = rows.std(0) if len(rows) > 1 else torch.zeros(rows.shape[1])
    return {"mean": rows.mean(0), "std": std, "error": std / len(rows) ** 0.5}


if __name__ == "__main__":
    sys.exit(main())
