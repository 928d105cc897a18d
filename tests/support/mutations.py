"""Faults of one line, put into a copy of the package one by one, and which generic checks see them.

`python -m tests.support.mutations` prints the tables of mutations.md and docs/proved.md (minutes); with words only
faults whose text has one of them. Nothing of the working tree is changed.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["COLUMNS", "MUTATIONS", "Mutation", "mutated"]

ROOT = Path(__file__).parents[2]
# {check: its column}
COLUMNS = {
    "reference": "formula",
    "reference_where_guidance_ends": "guidance ends",
    "reference_where_the_size_changes": "size changes",
    "reference_where_a_step_is_left_out": "step left out",
    "standstill": "standstill",
    "batch": "batch",
    "parallel": "parallel",
    "second_call": "second call",
    "neutral_setting": "neutral",
    "consumers_in_place": "in place",
    "one_module_in_two_places": "two places",
    "claims": "claims",
}


@dataclass(frozen=True)
class Mutation:
    """One of mutations.yaml: `before`, which stands once in the file, becomes `after`.

    Attributes:
        fault: in words.
        file: below `postdiff`.
        subjects: (preset or further setting, family) of what is checked.
    """

    fault: str
    file: str
    before: str
    after: str
    subjects: list[list[str]]


MUTATIONS = tuple(Mutation(**each) for each in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))


def mutated(source: str, mutation: Mutation) -> str:
    """The file's text with the fault."""
    assert source.count(mutation.before) == 1, f"{mutation.file}: '{mutation.before}' does not stand there once"
    return source.replace(mutation.before, mutation.after)


def caught_by(mutation: Mutation | None) -> set[str]:
    """Checks that fail, in a process of its own; all of the settings are checked without a fault."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("postdiff", "configs"):
            shutil.copytree(ROOT / name, Path(folder, name))
        if mutation is not None:
            file = Path(folder, "postdiff", mutation.file)
            file.write_text(mutated(file.read_text(), mutation))
        every = sorted({tuple(pair) for each in MUTATIONS for pair in each.subjects})
        subjects = mutation.subjects if mutation else every
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return set(pool.apply(_failing, (folder, subjects)))


def _failing(folder: str, subjects: Iterable[Sequence[str]]) -> list[str]:
    sys.path.insert(0, folder)
    import postdiff

    assert postdiff.__file__ and Path(postdiff.__file__).is_relative_to(folder)
    from tests.support.generic_checks import CHECKS
    from tests.support.subjects import asked, subject

    def fails(check: str) -> bool:
        for name, family in subjects:
            if asked(check, name, family):
                try:
                    CHECKS[check](subject(name, family), family)
                except Exception:
                    return True
        return False

    return [check for check in CHECKS if fails(check)]


def main(words: list[str]) -> None:
    import torch

    import tests.support.tiny  # noqa: F401  diffusers, once for all processes

    torch.set_num_threads(1)
    print(f"| fault | {' | '.join(COLUMNS.values())} |\n| --- |{' --- |' * len(COLUMNS)}", flush=True)
    if not words:
        assert not (found := caught_by(None)), f"without a fault: {found}"
    seen: dict[str, set[str]] = {}
    for mutation in MUTATIONS:
        if not words or any(word in f"{mutation.file}: {mutation.fault}" for word in words):
            seen[mutation.fault] = found = caught_by(mutation)
            cells = " | ".join("x" if check in found else "" for check in COLUMNS)
            file = Path(mutation.file)
            called = file.parent.name if file.stem == "method" else file.stem
            print(f"| {called}: {mutation.fault} | {cells} |", flush=True)
    print(f"\n| check | sees, of {len(seen)} | alone sees |\n| --- | --- | --- |")
    for check, column in COLUMNS.items():
        alone = ", ".join(fault for fault, found in seen.items() if found == {check})
        print(f"| {column} | {sum(check in found for found in seen.values())} | {alone} |")
    print(f"\nSeen by none: {[fault for fault, found in seen.items() if not found]}")


if __name__ == "__main__":
    main(sys.argv[1:])
