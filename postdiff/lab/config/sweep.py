"""Rows written once and made many: `over` lists values, braces say where they go.

rows:
  t{steps}_s{low}:
    over: {steps: [8, 20], low: [0.2, 0.5]}
    label: "{steps} steps, {low} low"
    steps: "{steps}"
    methods: [{mixed_resolution: {switch: "{low}"}}]

Values vary as in nested loops, the last one fastest. A text that is one pair of braces and nothing else becomes the
value itself, of its own type; within other text it is written out.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from postdiff.engine.errors import UsageError, shown, unknown

__all__ = ["MOST_ROWS", "expand"]

MOST_ROWS, MOST_VALUES = 10_000, 300_000  # of an experiment, and in all rows that were written once
MOST_IN_A_TEXT = 1000
_BRACES = re.compile(r"\{(\w+)\}")


def expand(rows: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every row that has `over`, once for each combination of its values; other rows as they are.

    Args:
        rows: row names and their values, as read from YAML.
        where: the file, for messages.

    Raises:
        UsageError: braces around an unlisted name, a value that no list holds, two rows of one name, or more than
            `MOST_ROWS`, which are counted before any is made.
    """
    count = sum(_count(name, values, where) for name, values in rows.items())
    if count > MOST_ROWS:
        raise UsageError(f"{where}: {count} rows are too many; write at most {MOST_ROWS}, in several files if need be")
    found: dict[str, Any] = {}
    for name, values in rows.items():
        for key, row in _expanded(name, values, where):
            if key in found:
                raise UsageError(
                    f"{where}: two rows are named '{shown(key)}'; put every name of 'over' into the row's name"
                )
            found[key] = row
    return found


def _count(name: str, values: Any, where: str) -> int:
    """How many rows one becomes."""
    if not isinstance(values, Mapping) or "over" not in values:
        return 1
    over = values["over"]
    if not isinstance(over, Mapping) or not over or not all(isinstance(each, list) and each for each in over.values()):
        raise UsageError(f"{where}: 'over' of row '{shown(name)}' must be a mapping of names to lists of values")
    count = math.prod(map(len, over.values()))
    if count * _size(values) > MOST_VALUES:
        raise UsageError(
            f"{where}: row '{shown(name)}' becomes {count} rows with more than {MOST_VALUES} values in all; list fewer"
        )
    return count


def _size(template: Any) -> int:
    if isinstance(template, Mapping):
        return 1 + sum(_size(value) for key, value in template.items() if key != "over")
    return 1 + sum(map(_size, template)) if isinstance(template, list) else 1


def _expanded(name: str, values: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, Mapping) or "over" not in values:
        yield name, values
        return
    over = values["over"]
    template = {key: value for key, value in values.items() if key != "over"}
    written = [[_Value(each, str(each)[: MOST_IN_A_TEXT + 1]) for each in listed] for listed in over.values()]
    for chosen in itertools.product(*written):
        value_of = dict(zip(over, chosen, strict=True))
        yield str(_filled(name, value_of, where)), _filled(template, value_of, where)


class _Value(NamedTuple):
    value: Any
    text: str


def _filled(template: Any, value_of: Mapping[str, _Value], where: str) -> Any:
    if isinstance(template, Mapping):
        return {key: _filled(value, value_of, where) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(item, value_of, where) for item in template]
    if not isinstance(template, str):
        return template
    for name in _BRACES.findall(template):
        if name not in value_of:
            raise UsageError(f"{where}: {unknown('name in braces', name, value_of)}")
    alone = _BRACES.fullmatch(template)
    if alone:
        return value_of[alone[1]].value
    filled = _BRACES.sub(lambda match: value_of[match[1]].text, template)
    if len(filled) > MOST_IN_A_TEXT:
        raise UsageError(f"{where}: '{shown(template)}' becomes longer than {MOST_IN_A_TEXT} characters; write less")
    return filled
