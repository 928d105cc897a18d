"""Which values of one table were not measured alike, so that none is read against another by mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff.lab.records.record import Record, Value
from postdiff.metrics import METRICS

__all__ = ["unlike"]

# The reference run of a paired metric belongs to the row's own settings, and a note follows from the rest.
ASIDE = ("reference", "note")
COUNT = "n_per_seed"


def unlike(records: Mapping[str, Mapping[str, Record]]) -> dict[str, list[str]]:
    """For each row, one note for each metric whose identity differs from that of the first row that has the metric.

    What only one of two records says is passed over: records of older runs say less.

    Args:
        records: by row and kind, in the order of the table.
    """
    first: dict[str, Value] = {}
    found: dict[str, list[str]] = {}
    for row, kinds in records.items():
        quality = kinds.get("quality")
        for name, value in (quality.metrics if quality else {}).items():
            if value.value is None:
                continue
            before = first.setdefault(name, value)
            if differing := _differing(name, before.identity, value.identity):
                title = METRICS[name].title if name in METRICS else name
                found.setdefault(row, []).append(f"{title} with other {', '.join(differing)} than in the first row")
    return found


def _differing(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    # A mean over pictures does not depend on their number; a distance between sets does.
    whole_sets = name in METRICS and METRICS[name].least > 1
    keys = [key for key in one if key in other and key not in ASIDE and (key != COUNT or whole_sets)]
    words = {COUNT: "number of pictures"}
    return [words.get(key, key) for key in keys if one[key] != other[key]]
