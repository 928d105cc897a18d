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

Many rows of one kind are written once: `over` lists values, braces say where they go.

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

import dataclasses
import itertools
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator

from postdiff import catalog
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import expanded
from postdiff.lab.config.layers import Finite, checked, merged
from postdiff.lab.config.schema import RunConfig, long_form, resolve
from postdiff.metrics import names as metric_names

__all__ = ["Experiment", "Row", "expand", "load"]

# Of a row's name; its files add up to 90 bytes more, and most file systems take 255.
MOST_CHARACTERS, MOST_BYTES = 120, 160
# What papers report beside metrics: our other values, and theirs that we do not measure or measure otherwise.
VALUES = (
    *(f"macs_{unit}{convention}" for unit in "gt" for convention in ("", "_dense", "_fvcore", "_all")),
    *("macs_saving", "time_s", "loop_s", "speedup", "loop_speedup", "images_per_s", "peak_memory_mb"),
    *("network_calls", "unet_s", "fid", "sfid", "clip", "psnr", "ssim", "lpips", "hps"),
)
MOST_ROWS, MOST_VALUES = 10_000, 300_000  # of an experiment, and in all rows that were written once
MOST_IN_A_TEXT = 1000
BRACES = re.compile(r"\{(\w+)\}")
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
        name: path below `configs/experiments` without the ending; of any other file, its own name without it.
        summary: one line.
        baseline: first row of the file, which ratios refer to also when it is not selected.
        rows: in the order of the file.
        given: what `load` reads it by, the name or the file.
    """

    name: str
    summary: str
    baseline: str
    rows: tuple[Row, ...]
    given: str = ""

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
    """Read an experiment and lay `overrides` over each of its rows.

    Args:
        name: of a file in `configs/experiments`, without the ending; or any file that ends in .yaml.
        overrides: keys and values of a row.

    Raises:
        UsageError: no such experiment, or a mistake in it; told in one line.
    """
    given = name
    if name.endswith(".yaml"):
        file = expanded(name)
        name = file.stem
    else:
        file = catalog.path("experiments", name)
    content = merged(_File, [(str(file), catalog.read(file))])
    if not content.rows:
        raise UsageError(f"{file}: 'rows' must be a mapping, with at least one row")
    base = (f"base of experiment {name}", content.base or {})
    rows = [
        _row(name, key, base, {} if values is None else values, overrides or {})
        for key, values in expand(content.rows, str(file)).items()
    ]
    return Experiment(name, content.summary or "", rows[0].name, tuple(rows), given)


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
    for name in BRACES.findall(template):
        if name not in value_of:
            raise UsageError(f"{where}: {unknown('name in braces', name, value_of)}")
    alone = BRACES.fullmatch(template)
    if alone:
        return value_of[alone[1]].value
    filled = BRACES.sub(lambda match: value_of[match[1]].text, template)
    if len(filled) > MOST_IN_A_TEXT:
        raise UsageError(f"{where}: '{shown(template)}' becomes longer than {MOST_IN_A_TEXT} characters; write less")
    return filled
