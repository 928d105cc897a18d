"""How features change over a run, and the key steps that follow (Faster Diffusion, Sec. 3.2, Figs. 2, 3, 10-12).

    python experiments/feature_evolution.py --keys 9,5
    python experiments/feature_evolution.py model=emoji data=emoji scheduler=ddim steps=50 count=32

key=value words are those of `postdiff run`. The record goes to outputs/records/faster_diffusion/features/ and is not
made again while the settings are the same; paper_figures/ draws it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.analysis import findings
from postdiff.lab.analysis.feature_probe import FeatureProbe, FeatureSnapshots
from postdiff.lab.analysis.findings import Findings
from postdiff.lab.analysis.key_selection import FeatureDistances, select_keys, solver_weights, staleness
from postdiff.lab.analysis.observation import job_of, observe
from postdiff.lab.config.layers import from_words
from postdiff.lab.config.schema import digest
from postdiff.lab.files import folders
from postdiff.lab.records.stored import now
from postdiff.methods.encoder_propagation.key_steps import KEY_SETS

EXPERIMENT = "faster_diffusion/features"
DEFAULTS = {"model": "emoji", "data": "emoji", "scheduler": "ddim", "steps": 50, "count": 32, "batch_size": 8}
SHOWN_STEPS = 6
SHOWN_PROMPTS = 2


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write the record, print its table and the key steps asked for; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="", metavar="K,K", help="print the best sets of so many key steps")
    parser.add_argument("--name", help="name of the record; default: made of model, solver and steps")
    parser.add_argument("--sketch", type=int, default=4096, help="numbers kept of a feature for distances; 0: all")
    parser.add_argument("--split", type=int, help="blocks in a transformer's encoder; default: 18 of 28")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there already")
    given, rest = parser.parse_known_args(words)
    quiet.quiet()
    try:
        counts = _counts(given.keys)
        record = measured(given, from_words(rest))
        print(table(record))
        for count in counts:
            print(f"\n{count} key steps of {record.config['steps']}:\n{key_table(record, count)}")
    except UsageError as error:
        print(f"postdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _counts(text: str) -> list[int]:
    words = re.findall(r"[^,\s]+", text)
    if not all(word.isdigit() for word in words):
        raise UsageError(f"--keys {text}: write numbers, for instance --keys 9,5")
    return [int(word) for word in words]


def measured(given: argparse.Namespace, words: dict[str, Any]) -> Findings:
    """The record of these settings, measured if it is not there yet.

    Raises:
        UsageError: a mistake in the settings, or a network without an encoder and a decoder.
    """
    plan = job_of(EXPERIMENT, "features", DEFAULTS, words)
    solver = plan.config.scheduler.name or "own"
    name = given.name or f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', plan.config.model)}_{solver}_{plan.config.steps}"
    settings = {"sketch": given.sketch, "split": given.split}
    run_id = digest([plan.run_id, settings, "features 2"])
    file = findings.fresh_path(EXPERIMENT, name)
    if file.is_file() and not given.fresh and (found := Findings.read(file)).run_id == run_id:
        return found
    folders.writable_outputs()
    started = now()
    probe, distances = FeatureProbe(given.split), FeatureDistances(given.sketch, given.split)
    snapshots = FeatureSnapshots(_spread(plan.config.steps), SHOWN_PROMPTS, given.split)
    observe(plan, [probe, distances, snapshots], name)
    found = {
        "steps": len(distances.levels) - 1,
        "blocks": _blocks(probe),
        "features": list(distances.squared),
        "distance": distances.relative(),
        "levels": distances.levels,
        "prediction": distances.prediction,
        "maps": {"steps": snapshots.steps, "prompts": [sample.prompt for sample in plan.samples[:SHOWN_PROMPTS]]},
    }
    maps = {block.label: snapshots.colours(block.label).numpy() for block in probe.blocks}
    record = findings.found_by(plan, name, run_id, started, settings, found, **maps)
    record.write(file)
    print(f"wrote {file}", file=sys.stderr)
    return Findings.read(file)


def _spread(steps: int) -> list[int]:
    """Steps from the first to the last at equal distances."""
    count = min(SHOWN_STEPS, steps)
    return [round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)]


def _blocks(probe: FeatureProbe) -> dict[str, dict[str, Any]]:
    """Statistics of each block, as a record keeps them."""
    change, relative, norms = probe.values("change"), probe.relative(), probe.values("norm")
    return {
        block.label: {
            "name": block.name,
            "part": block.part,
            "shape": probe.shapes[block.label],
            "change": _by_step(change[block.label]),
            "relative_change": _by_step(relative[block.label]),
            "power": probe.values("power")[block.label].mean(0),
            "norm": _box(norms[block.label]),
        }
        for block in probe.blocks
    }


def _by_step(rows: Tensor) -> dict[str, Any]:
    """Mean and standard deviation over samples, a step each; and over the run."""
    spread = rows.std(0) if len(rows) > 1 else torch.zeros(rows.shape[1])
    known = rows[:, ~rows.isnan().any(0)]
    half = known.shape[1] // 2
    return {
        "mean": rows.mean(0), "std": spread, "of_run": float(known.mean()),
        "first_half": float(known[:, :half].mean()), "second_half": float(known[:, half:].mean()),
    }  # fmt: skip


def _box(rows: Tensor) -> dict[str, Any]:
    """What a box plot over all samples and steps shows: quartiles, whiskers to 1.5 times their distance, spread."""
    values = rows.flatten().double()
    low, middle, high = (float(torch.quantile(values, q)) for q in (0.25, 0.5, 0.75))
    reach = 1.5 * (high - low)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    return {
        "q1": low, "med": middle, "q3": high, "whislo": float(inside.min()), "whishi": float(inside.max()),
        "mean": float(values.mean()), "std": float(values.std()), "n": len(values),
    }  # fmt: skip


def table(record: Findings) -> str:
    """The record in one table, a block a row."""
    lines = [
        f"{record.samples} images of {record.config['model']}, {record.found['steps']} steps, "
        f"solver {record.config['scheduler']['name'] or 'of the model'}; change between neighbouring steps",
        f"{'block':>6} {'output':>14} {'change':>10} {'relative':>9} {'1st half':>9} {'2nd half':>9}"
        f" {'norm, med':>10} {'norm, std':>10}",
    ]
    for label, block in record.found["blocks"].items():
        shape = "x".join(str(side) for side in block["shape"])
        relative = block["relative_change"]
        lines.append(
            f"{label:>6} {shape:>14} {block['change']['of_run']:>10.4g} {relative['of_run']:>9.4g}"
            f" {relative['first_half']:>9.4g} {relative['second_half']:>9.4g}"
            f" {block['norm']['med']:>10.4g} {block['norm']['std']:>10.4g}"
        )
    return "\n".join(lines)


def _weights(record: Findings) -> list[float]:
    return solver_weights(record.found["levels"], record.found["prediction"])


def key_sets(record: Findings, count: int) -> dict[str, list[int]]:
    """Key steps by how they were chosen: from the measured distances, and published and uniform ones of that size."""
    distance, steps = torch.tensor(record.found["distance"]), record.found["steps"]
    published = {name: list(one.steps) for name, one in KEY_SETS.items() if (one.of, len(one.steps)) == (steps, count)}
    return {
        "chosen": select_keys(distance, count),
        "chosen, solver-weighted": select_keys(distance, count, _weights(record)),
        **published,
        "uniform": sorted({round(i * steps / count) for i in range(count)}),
    }


def key_table(record: Findings, count: int) -> str:
    """Those sets with the staleness a step that each leaves, plain and weighted."""
    distance, weights = torch.tensor(record.found["distance"]), _weights(record)
    lines = [f"{'':24} {'staleness':>10} {'weighted':>10}"]
    for name, keys in key_sets(record, count).items():
        plain = staleness(distance, keys) / len(distance)
        weighted = staleness(distance, keys, weights) / sum(weights)
        lines.append(f"{name:24} {plain:>10.4f} {weighted:>10.5f}  keys: {keys}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
