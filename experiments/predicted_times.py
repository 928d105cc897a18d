"""Whether a plan's times hold: settings of its space predicted from the table of kinds of steps, and then measured.

    nice -n -5 python experiments/predicted_times.py      # 30 settings of configs/plans/unet.yaml, the shipped model
    python experiments/predicted_times.py --model sd15_512 --threads 0     # as many threads as torch likes

Combinations of choices are drawn without replacement, with every number of steps about equally often. The table of
`postdiff.lab.planner.times` is filled from nothing in the order of the draw, as a plan does it, and a setting whose
kinds are all known is not run for it. Then all are measured in turns, forwards and backwards, and a prediction is
compared with the median over rounds.

With one thread of a CPU both are on the process's clock, so that other programs count less; the time that passed is
written down beside it. The reference run also takes part in the turns, twice a round: if the machine has become slower
since the table was filled, its times tell by how much, and errors are given with that divided out as well.

The record goes to outputs/records/plans/, or with `--committed` to experiments/records/plans/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from postdiff.engine.errors import UsageError
from postdiff.lab import quiet
from postdiff.lab.devices import provenance
from postdiff.lab.files import folders
from postdiff.lab.pipelines import cards
from postdiff.lab.planner import space
from postdiff.lab.planner.cost import Macs
from postdiff.lab.planner.space import Setting, Space
from postdiff.lab.planner.times import CALLS, REFERENCE, Times
from postdiff.lab.records.stored import now

CLOSE = 0.1  # a prediction holds if it is off by no more than this share
FEWEST = 3  # steps; with fewer, hardly any method does anything


def main(words: Sequence[str] | None = None) -> int:
    """Predict, measure, print and write the record; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--space", help="a name of configs/plans or a file; the model's own, if left out")
    parser.add_argument("--settings", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--threads", type=int, default=1, help="of torch; 0 leaves them as they are")
    parser.add_argument("--committed", action="store_true", help="write into experiments/records")
    options = parser.parse_args(words)
    quiet.quiet()
    threads, root = torch.get_num_threads(), folders.outputs() / "records"
    torch.set_num_threads(options.threads or threads)
    try:
        found = measured(options.model, options.space, options.settings, options.rounds, options.seed)
    except UsageError as error:
        print(f"postdiff: error: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    show(found)
    root = folders.committed_records() if options.committed else root
    path = root / "plans" / "times" / f"{options.model}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {path}")
    return 0


def drawn(whole: Space, count: int, seed: int, fits: Callable[[Setting], bool]) -> list[Setting]:
    """Different combinations, and numbers of steps in shuffled rounds of all of them.

    Raises:
        UsageError: fewer fit the model.
    """
    generator, found, steps = random.Random(seed), list[Setting](), list[int]()
    combinations = whole.combinations
    generator.shuffle(combinations)
    for combination in combinations:
        if not steps:
            steps = [each for each in whole.steps if each >= FEWEST]
            generator.shuffle(steps)
        setting = combination.at(steps[-1])
        if fits(setting):
            found.append(setting)
            steps.pop()
        if len(found) == count:
            return found
    raise UsageError(f"only {len(found)} settings of the space fit the model; ask for as many with --settings")


def measured(model: str, name: str | None, count: int, rounds: int, seed: int) -> dict[str, Any]:
    """What the record holds.

    Raises:
        UsageError: no such model or space, or too few settings in it.
    """
    started, card = now(), cards.card(model)
    whole = space.read(name or space.usual(card))
    whole = whole.up_to(int(whole.full["steps"]))
    base = {"model": model, "data": "emoji", "seeds": [0], **whole.full}
    given = os.environ.get("POSTDIFF_OUTPUTS")
    with tempfile.TemporaryDirectory() as folder, Macs(base, card) as macs:
        os.environ["POSTDIFF_OUTPUTS"] = folder  # a table of its own, filled from nothing
        try:
            times = Times(base, macs, lambda line: print(line, file=sys.stderr))
            settings = drawn(whole, count, seed, lambda setting: macs.of(setting) is not None)
            begin = time.perf_counter()
            for setting in settings:
                times.of(setting)
            filled = time.perf_counter() - begin
            predicted = {setting.label: times.of(setting) or 0.0 for setting in settings}
            turns, paces = _turns(times, settings, rounds)
        finally:
            os.environ.pop("POSTDIFF_OUTPUTS")
            if given is not None:
                os.environ["POSTDIFF_OUTPUTS"] = given
    pace = statistics.median(paces) / times.reference
    device, threads = "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads()
    return {
        "model": model, "space": whole.name, "seed": seed, "device": provenance.device_name(device),
        "clock": "process" if device == "cpu" and threads == 1 else "wall", "threads": threads,
        "calls": CALLS, "rounds": rounds, "started": started, "ended": now(), "filling_s": filled,
        "git": provenance.git(), "versions": provenance.versions(), "pace": pace,
        **summary([_row(label, predicted[label], turns[label], pace) for label in predicted]),
    }  # fmt: skip


def _turns(
    times: Times, settings: Sequence[Setting], rounds: int
) -> tuple[dict[str, list[tuple[float, float]]], list[float]]:
    """{label: seconds of every round on the table's clock, and those that passed}, and those of the reference."""
    timers = {setting.label: times.timer(setting) for setting in settings}
    reference = times.timer(REFERENCE)
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in timers}
    paces = []
    for turn in range(rounds):
        for place, label in enumerate(list(timers)[:: -1 if turn % 2 else 1]):
            if place % max(1, len(timers) // 2) == 0:
                around, steps = reference()
                paces.append(around + sum(steps))
            begin = time.perf_counter()
            around, steps = timers[label]()
            found[label].append((around + sum(steps), time.perf_counter() - begin))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    return found, paces


def _row(label: str, predicted: float, turns: Sequence[tuple[float, float]], pace: float) -> dict[str, Any]:
    seconds, passed = (statistics.median(each) for each in zip(*turns, strict=True))
    own, ratio = [each for each, _ in turns], predicted / seconds
    return {
        "setting": label, "predicted_s": predicted, "measured_s": seconds, "passed_s": passed,
        "least_s": min(own), "most_s": max(own), "error": ratio - 1, "error_at_pace": ratio * pace - 1,
    }  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows by time, and how many predictions hold: as they are, and with the machine's pace divided out."""
    kinds = {}
    for key in ("error", "error_at_pace"):
        sizes = sorted(abs(row[key]) for row in rows)
        kinds[key] = {
            "within 10 %": sum(size <= CLOSE for size in sizes) / len(sizes),
            "median": statistics.median(sizes),
            "worst": max((row[key] for row in rows), key=abs),
        }
    return {"summary": kinds, "rows": sorted(rows, key=lambda row: float(row["measured_s"]))}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    for row in found["rows"]:
        number = "{predicted_s:8.3f} s predicted {measured_s:8.3f} s measured {error:+6.1%} {error_at_pace:+6.1%}"
        print(f"{row['setting']:50}{number.format(**row)}")
    for key, words in (("error", "as they are"), ("error_at_pace", "pace divided out")):
        own = found["summary"][key]
        print(f"{words}: {own['within 10 %']:.0%} within 10 %, median {own['median']:.1%}, worst {own['worst']:+.1%}")
    print(f"pace {found['pace']:.3f}, table filled in {found['filling_s']:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
