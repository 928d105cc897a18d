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

Many rows of one kind are written once; see `postdiff.lab.config.sweep`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff import catalog
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.lab.config import sweep
from postdiff.lab.config.layers import read_yaml
from postdiff.lab.config.schema import RunConfig, resolve
from postdiff.metrics import METRICS

__all__ = ["Experiment", "Row", "load"]

# Of a row's name; its files add up to 90 bytes more, and most file systems take 255.
MOST_CHARACTERS, MOST_BYTES = 120, 160
# What papers report beside metrics: our other figures, and theirs that we do not measure or measure otherwise.
FIGURES = (
    *(f"macs_{unit}{convention}" for unit in "gt" for convention in ("", "_dense", "_fvcore", "_all")),
    *("macs_saving", "time_s", "loop_s", "speedup", "loop_speedup", "pictures_per_s", "peak_memory_mb"),
    *("network_calls", "unet_s", "fid", "sfid", "clip", "psnr", "ssim", "lpips", "hps"),
)
AT_STEP = re.compile(r"(.+)_at_[0-9]{1,6}")
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
    base, rows = _or_empty(content.get("base")), content.get("rows")
    if not isinstance(base, dict) or not isinstance(rows, dict) or not rows:
        raise UsageError(f"{file}: 'base' and 'rows' must be mappings, with at least one row")
    rows = sweep.expand(rows, str(file))
    parsed = [_row(name, key, _or_empty(values), base, overrides or {}) for key, values in rows.items()]
    return Experiment(name, _line(content.get("summary", "")), parsed[0].name, tuple(parsed))


def _row(experiment: str, name: str, values: Any, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Row:
    where = f"row '{name}' of experiment {experiment}"
    if not _is_name(name):
        raise UsageError(
            f"experiment {experiment}: '{shown(name)}' is no name for a row, since files are called after it; use "
            f"letters, digits, '_', '+', '=', and not first '-' and '.', at most {MOST_CHARACTERS} "
            f"({MOST_BYTES} bytes), not '.speed' last"
        )
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must be a mapping of keys and values")
    for key in values:
        if key not in ROW_KEYS:
            raise UsageError(f"{where}: {unknown('key', key, ROW_KEYS)}")
    values = dict(values)
    label, note = (_line(values.pop(key, usual)) for key, usual in (("label", name), ("note", "")))
    reported = _or_empty(values.pop("reported", None))
    if not isinstance(reported, dict) or not all(_is_number(value) for value in reported.values()):
        raise UsageError(f"{where}: 'reported' must be a mapping of names to numbers")
    for figure in reported:
        at_step = AT_STEP.fullmatch(figure)
        if (at_step[1] if at_step else figure) not in (*METRICS, *FIGURES):
            raise UsageError(f"{where}: {unknown('figure', figure, (*METRICS, *FIGURES))}")
    layers = [(f"base of experiment {experiment}", base), (where, values)]
    written = resolve(layers)
    config = resolve([*layers, ("command line", overrides)]) if overrides else written
    changed = _changed(written, config) if overrides else {}
    return Row(name, label, config, changed, {str(key): float(value) for key, value in reported.items()}, note)


def _or_empty(values: Any) -> Any:
    """A key with nothing behind it is an empty mapping; all else that is false is a mistake."""
    return {} if values is None else values


def _changed(before: RunConfig, after: RunConfig) -> dict[str, Any]:
    keys = [key for key in vars(after) if getattr(after, key) != getattr(before, key)]
    return {key: value for key, value in after.as_dict().items() if key in keys} if keys else {}


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _is_name(name: str) -> bool:
    """Whether files can be called so, in whatever language: letters with their marks, digits and a few signs."""
    letters = all(sign in "_+=-." or unicodedata.category(sign)[0] in "LMN" for sign in name)
    short = len(name) <= MOST_CHARACTERS and len(name.encode(errors="replace")) <= MOST_BYTES
    return letters and short and name[:1] not in ("", "-", ".") and not name.endswith(".speed")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
