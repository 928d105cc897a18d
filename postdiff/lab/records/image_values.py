"""What was measured of single images, from the CSV file beside a fresh record."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from postdiff.lab.records.record import Record, fresh_path

__all__ = ["by_prompt"]


def by_prompt(record: Record, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]] | None:
    """{metric: (prompts,), each prompt's mean over its seeds}; None if the file is not what the record was made with.

    Args:
        record: fresh, of quality.
        metrics: wanted; those that are not of single images are left out.
    """
    file = fresh_path(record.experiment, record.row).with_suffix(".csv")
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != record.values:
        return None
    lines = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    by_place: dict[int, list[dict[str, str]]] = {place: [] for place in sorted({int(line["index"]) for line in lines})}
    for line in lines:
        by_place[int(line["index"])].append(line)
    return {
        name: np.array([np.mean([float(line[name]) for line in own]) for own in by_place.values()])
        for name in metrics
        if name in lines[0]
    }
