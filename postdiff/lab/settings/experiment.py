"""An experiment file: a base, named rows laid over it, and the numbers that a paper reports for them.

summary: one line
base: {model: emoji, steps: 20}
rows:
  baseline: {label: 20 steps}
  deepcache:
    label: DeepCache
    methods: [{deepcache: {interval: 2}}]
    reported: {macs_g: 17770}
    note: what to know when reading the reported figures

Many rows of one kind are written once; see `postdiff.lab.settings.sweep`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError, unknown
from postdiff.lab.settings import sweep
from postdiff.lab.settings.config import RunConfig
from postdiff.lab.settings.resolving import resolve
from postdiff.lab.settings.schema import read_yaml

__all__ = ["Experiment", "Row", "load"]

# A record is `<row>.json`, or `<row>.speed.json`.
NAME = re.compile(r"[\w+=-][\w.+=-]{0,119}")
ROW_KEYS = ("label", "reported", "note", *(field.name for field in dataclasses.fields(RunConfig)))


@dataclass(frozen=True)
class Row:
    """One named row.

    Attributes:
        name: key in the file; also the name of its record.
        label: what tables and pictures call it.
        config: base, row and command line merged.
        changed: what the command line changed in it.
        reported: figures that a paper gives, by the name of our figure.
        note: one sentence that tables print about the row; empty if there is none.
    """

    name: str
    label: str
    config: RunConfig
    changed: Mapping[str, Any]
    reported: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Experiment:
    """A parsed experiment file.

    Attributes:
        name: path below `configs/experiments` without the ending.
        summary: one line.
        baseline: first row of the file, which ratios refer to also when it is not selected.
        rows: in the order of the file.
    """

    name: str
    summary: str
    baseline: str
    rows: tuple[Row, ...]

    def select(self, names: Sequence[str] | None) -> Experiment:
        """The same experiment with these rows only, in the order of the file.

        Raises:
            UsageError: no such row; the nearest name is suggested.
        """
        if names is None:
            return self
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise unknown(f"row of experiment {self.name}", name, known)
        return dataclasses.replace(self, rows=tuple(row for row in self.rows if row.name in names))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read `configs/experiments/<name>.yaml` and lay `overrides` over each of its rows.

    Raises:
        UsageError: no such experiment, or a mistake in it; told in one line.
    """
    file = catalog.path("experiments", name)
    content = read_yaml(file)
    for key in content:
        if key not in ("summary", "base", "rows"):
            raise UsageError(f"{file}: {unknown('key', key, ('summary', 'base', 'rows'))}")
    base, rows = content.get("base") or {}, content.get("rows")
    if not isinstance(base, dict) or not isinstance(rows, dict) or not rows:
        raise UsageError(f"{file}: 'base' and 'rows' must be mappings, with at least one row")
    rows = sweep.expand({str(key): values for key, values in rows.items()}, str(file))
    parsed = [_row(name, key, values or {}, base, overrides or {}) for key, values in rows.items()]
    return Experiment(name, str(content.get("summary", "")), parsed[0].name, tuple(parsed))


def _row(experiment: str, name: str, values: Any, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Row:
    where = f"row '{name}' of experiment {experiment}"
    if not NAME.fullmatch(name) or name.endswith(".speed"):
        raise UsageError(
            f"experiment {experiment}: '{name}' is no name for a row, since files are called after it; use letters, "
            "digits, '_', '-', '+', '=' and '.', not first and not '.speed'"
        )
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must be a mapping of keys and values")
    for key in values:
        if key not in ROW_KEYS:
            raise UsageError(f"{where}: {unknown('key', key, ROW_KEYS)}")
    values = dict(values)
    label, reported = str(values.pop("label", name)), values.pop("reported", None) or {}
    note = " ".join(str(values.pop("note", "")).split())
    if not isinstance(reported, dict) or not all(_is_number(value) for value in reported.values()):
        raise UsageError(f"{where}: 'reported' must be a mapping of names to numbers")
    layers = [(f"base of experiment {experiment}", base), (where, values)]
    written = resolve(layers)
    config = resolve([*layers, ("command line", overrides)]) if overrides else written
    before = written.as_dict()
    changed = {key: value for key, value in config.as_dict().items() if value != before[key]}
    return Row(name, label, config, changed, {str(key): float(value) for key, value in reported.items()}, note)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
