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
import re
from collections.abc import Mapping
from typing import Any

from postdiff.engine.errors import UsageError, unknown

__all__ = ["expand"]

_BRACES = re.compile(r"\{(\w+)\}")


def expand(rows: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every row that has `over`, once for each combination of its values; other rows as they are.

    Args:
        rows: row names and their values, as read from YAML.
        where: the file, for messages.

    Raises:
        UsageError: braces around an unlisted name, a value that no list holds, or two rows of one name.
    """
    found: dict[str, Any] = {}
    for name, values in rows.items():
        if not isinstance(values, Mapping) or "over" not in values:
            made = {name: values}
        else:
            made = _expanded(name, values, where)
        for key in made:
            if key in found:
                raise UsageError(f"{where}: two rows are named '{key}'; put every name of 'over' into the row's name")
        found |= made
    return found


def _expanded(name: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    over = values["over"]
    if not isinstance(over, Mapping) or not over or not all(isinstance(each, list) and each for each in over.values()):
        raise UsageError(f"{where}: 'over' of row '{name}' must be a mapping of names to lists of values")
    template = {key: value for key, value in values.items() if key != "over"}
    made: dict[str, Any] = {}
    for chosen in itertools.product(*over.values()):
        value_of = dict(zip(over, chosen, strict=True))
        key = str(_filled(name, value_of, where))
        if key in made:
            raise UsageError(f"{where}: two rows are named '{key}'; put every name of 'over' into the row's name")
        made[key] = _filled(template, value_of, where)
    return made


def _filled(template: Any, value_of: Mapping[str, Any], where: str) -> Any:
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
        return value_of[alone[1]]
    return _BRACES.sub(lambda match: str(value_of[match[1]]), template)
