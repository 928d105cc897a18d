"""The table in docs/prepared_pipelines.md: `python -m tests.support.prepared_table` tries everything and writes it.

Its rows are the preparations that the tests make, its columns their families; the tests try some of its cells again.
With names of preparations behind it, the program tries these alone and keeps the other rows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from postdiff import catalog
from tests.support import prepared_outcomes
from tests.support.prepared import FAMILIES, PREPARATIONS

__all__ = ["FILE", "read", "titles", "write"]

FILE = Path(__file__).parents[2] / "docs" / "prepared_pipelines.md"
HEAD = """# Pipelines that are prepared already

What `accelerate(pipe, [...])` does on a pipeline that its owner has offloaded, personalised or quantised before. Every
preset that serves the plain pipeline is tried on tiny networks with random weights, on a CPU.

"20 of 20" means that all do there what they do in plain:

- the setting without effect gives the prepared pipeline's own bits;
- the method gives what it gives on a plain pipeline that computes the same, bit for bit, or within rounding where the
  preparation rounds (float16: within a tenth of the largest number);
- it does the same work, and everything is left as it was.

Where no plain pipeline computes the same (FreeU, IP-Adapter, tiles) that comparison is left out. What is refused is
refused in one line, which stands below. "-": the pipeline does not know it.

Groups of layers are offloaded to disk here, and what is left in their place are numbers of nothing; single layers leave
nothing at all (torch's meta device). Whole networks are on the CPU already, so only their hooks are called.

Written by `python -m tests.support.prepared_table`; `tests/engine/test_prepared_pipelines.py` checks parts of it.
"""
DIFFERS, REFUSED = "differs: ", "refused: "


def write(names: Sequence[str] = ()) -> None:
    """Try everything, or some preparations, and write the table."""
    rows = {title: cells for title, *cells in _rows()} if names else {}
    reasons = _reasons() if names else {}
    for name in names or PREPARATIONS:
        each = PREPARATIONS[name]
        reasons = {key: line for key, line in reasons.items() if key != each.title}
        rows[each.title] = [
            _cell(name, family, reasons) if family in each.families else "-" for family in FAMILIES.values()
        ]
        print(name, rows[each.title], reasons.get(each.title, ""), flush=True)
        _put_down(rows, reasons)


def read() -> dict[tuple[str, str], list[str]]:
    """{(preparation, family): presets that are refused}, in the order of the table."""
    by_title = {each.title: name for name, each in PREPARATIONS.items()}
    found = {}
    for title, *cells in _rows():
        for family, cell in zip(FAMILIES.values(), cells, strict=True):
            assert DIFFERS not in cell, f"{title}: {cell}"
            if cell != "-":
                found[by_title.get(title, title), family] = re.findall(r"\w+", cell.partition(REFUSED)[2])
    return found


def titles() -> list[str]:
    """The first column."""
    return [title for title, *_ in _rows()]


def _put_down(rows: dict[str, list[str]], reasons: dict[str, str]) -> None:
    known = [each.title for each in PREPARATIONS.values() if each.title in rows]
    lines = [HEAD, f"| Prepared by | {' | '.join(FAMILIES)} |", f"| --- |{' --- |' * len(FAMILIES)}"]
    lines += [f"| {title} | {' | '.join(rows[title])} |" for title in known]
    lines += ["", *(f"- {title}: {reasons[title]}" for title in known if title in reasons)]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("\n".join(lines).rstrip() + "\n")


def _rows() -> list[list[str]]:
    lines = [line for line in FILE.read_text().splitlines() if line.startswith("| ")] if FILE.is_file() else []
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def _reasons() -> dict[str, str]:
    lines = [line[2:] for line in FILE.read_text().splitlines() if line.startswith("- ")] if FILE.is_file() else []
    starts = [each.title for each in PREPARATIONS.values()]
    return {title: line[len(title) + 2 :] for line in lines for title in starts if line.startswith(f"{title}: ")}


def _cell(name: str, family: str, reasons: dict[str, str]) -> str:
    refused, differs = [], []
    names = [preset for preset in catalog.names("methods") if prepared_outcomes.serves(family, preset)]
    for preset in names:
        try:
            if (line := prepared_outcomes.outcome(name, family, preset)) is not None:
                refused.append(preset)
                reasons.setdefault(PREPARATIONS[name].title, line)
        except AssertionError as error:
            differs.append(f"{preset} ({error})")
    same = f"{len(names) - len(refused) - len(differs)} of {len(names)}"
    parts = [f"{word}{', '.join(some)}" for word, some in ((DIFFERS, differs), (REFUSED, refused)) if some]
    return "; ".join([same, *parts])


if __name__ == "__main__":
    import diffusers
    import torch

    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the networks are too small for more
    write(sys.argv[1:])
