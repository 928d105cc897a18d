"""An experiment file: a base, named rows laid over it, and the numbers that a paper reports for them.

summary: one line
base: {model: emoji, steps: 20}
rows:
  baseline: {label: 20 steps}
  deepcache:
    label: DeepCache
    methods: [{deepcache: {interval: 2}}]
    reported: {macs_g: 17770}
    note: what to know when reading the reported values

Many rows of one kind are written once; see `postdiff.lab.config.sweep`.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

from postdiff import catalog
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.lab.config import sweep
from postdiff.lab.config.layers import Finite, checked, merged
from postdiff.lab.config.schema import RunConfig, long_form, resolve
from postdiff.metrics import names as metric_names

__all__ = ["Experiment", "Row", "load"]

# Of a row's name; its files add up to 90 bytes more, and most file systems take 255.
MOST_CHARACTERS, MOST_BYTES = 120, 160
# What papers report beside metrics: our other values, and theirs that we do not measure or measure otherwise.
VALUES = (
    *(f"macs_{unit}{convention}" for unit in "gt" for convention in ("", "_dense", "_fvcore", "_all")),
    *("macs_saving", "time_s", "loop_s", "speedup", "loop_speedup", "images_per_s", "peak_memory_mb"),
    *("network_calls", "unet_s", "fid", "sfid", "clip", "psnr", "ssim", "lpips", "hps"),
)
AT_STEP = re.compile(r"(.+)_at_[0-9]{1,6}")
Layer = tuple[str, Mapping[str, Any]]
OneLine = Annotated[Any, AfterValidator(lambda text: text and " ".join(str(text).split()))]


def _check_figures(reported: Mapping[str, float]) -> None:
    for value in reported:
        at_step = AT_STEP.fullmatch(value)
        if (at_step[1] if at_step else value) not in (*metric_names(), *VALUES):
            raise unknown("value", value, (*metric_names(), *VALUES))


@dataclass
class _File:
    summary: OneLine = ""
    base: dict[str, Any] | None = None
    rows: dict[str, Any] = field(default_factory=dict)


@dataclass
class _RowKeys(RunConfig):
    label: OneLine = None
    note: OneLine = None
    reported: Annotated[dict[str, Finite], checked(_check_figures)] | None = None


@dataclass(frozen=True)
class Row:
    """One named row.

    Attributes:
        name: key in the file; also the name of its record.
        label: what tables and images call it.
        config: base, row and command line merged.
        changed: what the command line changed in it.
        reported: values that a paper gives, by the name of our value.
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
    content = merged(_File, [(str(file), catalog.read(file))])
    if not content.rows:
        raise UsageError(f"{file}: 'rows' must be a mapping, with at least one row")
    base = (f"base of experiment {name}", content.base or {})
    rows = [
        _row(name, key, base, {} if values is None else values, overrides or {})
        for key, values in sweep.expand(content.rows, str(file)).items()
    ]
    return Experiment(name, content.summary or "", rows[0].name, tuple(rows))


def _row(experiment: str, name: str, base: Layer, values: Any, overrides: Mapping[str, Any]) -> Row:
    where = f"row '{name}' of experiment {experiment}"
    # Files are called so, in whatever language: letters with their marks, digits and a few signs.
    letters = all(sign in "_+=-." or unicodedata.category(sign)[0] in "LMN" for sign in name)
    short = len(name) <= MOST_CHARACTERS and len(name.encode(errors="replace")) <= MOST_BYTES
    if not letters or not short or name[:1] in ("", "-", ".") or name.endswith(".speed"):
        raise UsageError(
            f"experiment {experiment}: '{shown(name)}' is no name for a row, since files are called after it; use "
            f"letters, digits, '_', '+', '=', and not first '-' and '.', at most {MOST_CHARACTERS} "
            f"({MOST_BYTES} bytes), not '.speed' last"
        )
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must be a mapping of keys and values")
    keys = merged(_RowKeys, [(where, long_form(values))])
    layers = [base, (where, {key: value for key, value in values.items() if key not in ("label", "note", "reported")})]
    written = config = resolve(layers)
    changed: dict[str, Any] = {}
    if overrides:
        config = resolve([*layers, ("command line", overrides)])
        before = dataclasses.asdict(written)
        changed = {key: value for key, value in dataclasses.asdict(config).items() if value != before[key]}
    return Row(name, keys.label or name, config, changed, keys.reported or {}, keys.note or "")
