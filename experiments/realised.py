"""How much of what left-out calls of the network could save is saved: realised speed-up over ideal speed-up.

    python experiments/realised.py                          # Stable Diffusion V1.5's structure, 256 pixels, 10 steps
    python experiments/realised.py --size 512 --steps 50

The network has the published shapes and random weights, in float32 on the CPU, and one image is made with guidance. Of
a run all but text encoder and autoencoder is timed: network, solver, the pipeline's loop, and the method. Ideal is the
ratio of calls of the network that are made, with no regard to anything else.

Random weights say nothing about which calls may be left out. So thresholds are so high that a rule leaves out every
call that its other options allow, while all of its own work is done.

Bare pipeline and methods take turns, forwards and then backwards. The clock is that of the process, so that other
programs on the machine count less; on an idle machine and with one thread it is the time that passes, which is written
down beside it. The record goes to outputs/records/realised/, or with `--committed` to experiments/records/realised/.
The one that stands there is of 128 pixels and 8 steps, made on a machine with other work to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler

from postdiff import accelerate
from postdiff.cost import structure_file
from postdiff.lab.devices.provenance import versions
from postdiff.lab.files import folders
from postdiff.lab.records.stored import now
from postdiff.presets import build_methods

STRUCTURE = "sd15"
HIGH = 1e9
# {row: method and options}; goals of realised / ideal: 0.95 where steps are fixed beforehand, 0.93 where a rule looks.
ROWS: dict[str, tuple[dict[str, dict[str, Any]], float]] = {
    "step_mask": ({"step_mask": {"computed": 2}}, 0.95),
    "spectrum": ({"spectrum": {"warmup": 3, "interval": 2.0, "growth": 0.0, "degree": 1}}, 0.95),
    "easy_cache": ({"easy_cache": {"threshold": HIGH, "warmup": 2, "most": 1}}, 0.93),
    "adaptive_diffusion": ({"adaptive_diffusion": {"threshold": HIGH, "warmup": 3, "most": 1}}, 0.93),
    "lazy_cache": ({"lazy_cache": {"threshold": HIGH, "begin": 0.15, "end": 0.95}}, 0.93),
    "sada": ({"sada": {"first": 1, "last": 2, "late": 0, "interval": 2, "terms": 2}}, 0.93),
    "sea_cache_network": ({"sea_cache": {"threshold": HIGH, "replay": "prediction", "in_a_row": 1}}, 0.93),
}


def main(words: Sequence[str] | None = None) -> int:
    """Time, print the table and write the record; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2, help="times forwards and backwards")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--committed", action="store_true", help="write into experiments/records")
    options = parser.parse_args(words)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # numbers of random networks may vanish
    try:
        found = table(measured(options.size, options.steps, options.rounds))
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    show(found)
    content = {
        "structure": STRUCTURE, "device": "cpu", "dtype": "float32", "images": 1, "size": options.size,
        "steps": options.steps, "rounds": options.rounds, "threads": options.threads, "clock": "process",
        "time": now(), "versions": versions(), "rows": found,
    }  # fmt: skip
    root = folders.committed_records() if options.committed else folders.outputs() / "records"
    path = root / "realised" / f"{STRUCTURE}_{options.size}px_{options.steps}_steps.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {path}")
    return 0


def measured(size: int, steps: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """{row: its runs}, each with its calls of the network and its seconds; "bare" is the pipeline without methods."""
    structure = structure_file.read(STRUCTURE)
    torch.manual_seed(0)
    pipe = structure.assembled(structure.networks(), DPMSolverMultistepScheduler())
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    given = {name: torch.randn(1, *shape, generator=generator) for name, shape in structure.conditions.items()}
    given |= {"height": size, "width": size, "num_inference_steps": steps, "guidance_scale": 7.5}
    drivers = {"bare": accelerate(pipe)} | {
        row: accelerate(pipe, build_methods([spec])) for row, (spec, _) in ROWS.items()
    }
    found: dict[str, list[dict[str, float]]] = {row: [] for row in drivers}
    drivers["bare"](**given, output_type="latent", generator=generator.manual_seed(2))  # memory is got once
    for turn in range(2 * rounds):
        for row in list(drivers)[:: -1 if turn % 2 else 1]:
            wall, cpu = time.perf_counter(), time.process_time()
            drivers[row](**given, output_type="latent", generator=generator.manual_seed(2))
            seconds = {"seconds": time.process_time() - cpu, "wall": time.perf_counter() - wall}
            found[row].append({"calls": drivers[row].counts["network calls"], **seconds})
            print(f"{turn + 1}/{2 * rounds} {row}: {seconds['seconds']:.2f} s", file=sys.stderr)
    return found


def table(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """{row: calls, seconds (medians), ideal and realised speed-up, their ratio and its goal}."""
    middle = {row: {key: statistics.median(run[key] for run in each) for key in each[0]} for row, each in runs.items()}
    bare, found = middle.pop("bare"), {}
    for row, own in middle.items():
        ideal, realised = bare["calls"] / own["calls"], bare["seconds"] / own["seconds"]
        found[row] = {
            **own, "ideal": ideal, "realised": realised, "realised / ideal": realised / ideal, "goal": ROWS[row][1],
            "realised / ideal, wall": bare["wall"] / own["wall"] / ideal,
        }  # fmt: skip
    return {"bare": bare, **found}


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    columns = ("calls", "seconds", "ideal", "realised", "realised / ideal", "goal", "realised / ideal, wall")
    print(f"{'':20}" + "".join(f"{column:>{max(len(column), 8) + 2}}" for column in columns))
    for row, own in rows.items():
        cells = (f"{own[column]:.3f}" if column in own else "" for column in columns)
        print(f"{row:20}" + "".join(f"{cell:>{max(len(c), 8) + 2}}" for cell, c in zip(cells, columns, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
