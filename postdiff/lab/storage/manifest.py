"""`manifest.csv` of a folder of pictures: which pictures there are, and where each is."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from os.path import isfile
from pathlib import Path
from typing import Any

from postdiff.lab.files import folders
from postdiff.lab.samples import Sample

__all__ = ["add"]

COLUMNS = ("index", "prompt", "seed", "sha256", "file")
Line = dict[str, str]


def add(folder: Path, rows: Iterable[Mapping[str, Any]], file_of: Callable[[Sample], Path]) -> None:
    """Add pictures, sorted by seed and index, and leave out those that are gone; the same list is not written again.

    Args:
        folder: of the pictures. Whoever calls this holds the right to change its manifest.
        rows: with at least index, prompt, seed and sha256.
        file_of: where the picture of a sample is.
    """
    file = folder / "manifest.csv"
    before = _text(file)
    listed = _lines(before)
    for row in rows:
        sample = Sample(int(row["index"]), str(row["prompt"]), int(row["seed"]))
        place = file_of(sample).relative_to(folder).as_posix()
        listed[sample.seed, sample.index] = {**{name: str(row[name]) for name in COLUMNS[:4]}, "file": place}
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    writer.writerows(listed[key] for key in sorted(listed) if isfile(folder / listed[key]["file"]))
    if stream.getvalue() != before:
        with folders.whole_file(file) as temporary:
            temporary.write_text(stream.getvalue(), encoding="utf-8", newline="")


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode() if file.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""  # damaged: every row adds its pictures again


def _lines(text: str) -> dict[tuple[int, int], Line]:
    """The lines that are whole, by seed and index."""
    found = {}
    try:
        for line in csv.DictReader(io.StringIO(text, newline="")):
            if set(line) == set(COLUMNS) and None not in line.values() and _number(line["seed"], line["index"]):
                found[int(line["seed"]), int(line["index"])] = line
    except csv.Error:
        pass
    return found


def _number(*texts: str) -> bool:
    return all(text.isascii() and text.isdecimal() and len(text) < 20 for text in texts)
