"""Files with prompts, whatever their format, as lines.

| ending | form |
| --- | --- |
| .txt | one prompt a line; blank lines are skipped |
| .csv, .tsv | a header, then one prompt a line |
| .jsonl, .ndjson | one JSON object a line |
| .json | a list of objects or of texts |
| .parquet | a table, for instance a manifest |

Text is UTF-8, with or without a byte order mark, with line ends of any system. The prompt is in the column asked for,
or else in the first of `prompt`, `prompts`, `caption`, `text` that there is. Columns (keys) `id`, `image` and `class`,
and a column of seeds, are read where they are wanted.

Lines are numbered from 0 in the order of the file, blank lines not counted: so nothing is drawn for those, and removing
them changes no picture. Messages give the number that an editor shows. In every format but .txt "" is a prompt: that of
an unconditional picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from postdiff.datasets import content, formats
from postdiff.datasets.content import MOST_BYTES, MOST_LINES, listed, shown
from postdiff.datasets.formats import PARQUET, Row
from postdiff.datasets.lines import (
    Line,
    checked_id,
    checked_image,
    checked_label,
    checked_prompt,
    checked_seed,
    refuse_twins,
)
from postdiff.datasets.tables import Table
from postdiff.engine.errors import UsageError, unknown

__all__ = ["USUAL", "read", "read_text"]

USUAL = ("prompt", "prompts", "caption", "text")


@dataclass(frozen=True)
class _Columns:
    """What is read of every line; see `read`."""

    prompt: str | None
    seed: str | None
    images: bool
    classes: int | None

    @property
    def beside(self) -> list[str]:
        """Columns that all lines may have, or none."""
        wanted = {"id": True, "image": self.images, "class": self.classes is not None}
        return [name for name, asked in wanted.items() if asked]


def read(
    file: Path,
    column: str | None = None,
    *,
    images: bool = False,
    classes: int | None = None,
    seeds: str | None = None,
) -> list[Line]:
    """All lines of a file, in its order.

    Args:
        file: of one of the formats above.
        column: where the prompts are; None means the usual one.
        images: whether `image` is wanted.
        classes: number of classes if `class` is wanted.
        seeds: column of the lines' own seeds, whole numbers from 0 and below 2**63; None means that they have none.

    Raises:
        UsageError: the file is missing, empty, broken or too large, or a line is; told with the line.
    """
    columns, name = _Columns(column, seeds, images, classes), str(file)
    _refuse_missing(file)
    formats.check_ending(name)
    if file.suffix.lower() == PARQUET:
        return _lines(_rows_of_table(file, columns), name, columns)
    return _lines(formats.rows(name, content.decoded(content.read(file), name)), name, columns)


def read_text(
    name: str,
    text: str,
    column: str | None = None,
    *,
    images: bool = False,
    classes: int | None = None,
    seeds: str | None = None,
) -> list[Line]:
    """The same for text that was read already, for instance out of an archive; `name` says its format.

    Raises:
        UsageError: see `read`.
    """
    return _lines(formats.rows(name, text), name, _Columns(column, seeds, images, classes))


def _refuse_missing(file: Path) -> None:
    try:
        missing = not file.exists() or file.is_dir()
    except OSError as error:
        raise content.unreadable(file, error) from None
    if missing:
        raise UsageError(f"prompt file {file} is missing; name another one")


def _rows_of_table(file: Path, columns: _Columns) -> Iterator[Row]:
    content.refuse_larger(file, content.MOST_STORED, "a table of prompts")
    table = Table(file, "make it again")
    names = [_prompt_key(table.texts, str(file), columns.prompt, table.columns)]
    _check_seed_column(list(table.columns), str(file), columns.seed)
    for name in (*columns.beside, *([columns.seed] if columns.seed is not None else [])):
        if name in (*table.texts, *table.numbers):
            names.append(name)
        elif name in table.columns and name in ("class", columns.seed):
            raise _of_wrong_type(str(file), name, table.columns[name], "whole numbers")
    for number, values in enumerate(table.read(list(dict.fromkeys(names))), 1):
        yield Row(f"row {number}", values)


def _of_wrong_type(file: str, column: str, found: str, wanted: str) -> UsageError:
    return UsageError(f"{file}: column {shown(column)} holds {found[:60]}, not {wanted}; write it anew, or use another")


def _lines(rows: Iterable[Row], file: str, columns: _Columns) -> list[Line]:
    found: list[Line] = []
    key, having, letters = "", dict.fromkeys(columns.beside, 0), 0
    for row in rows:
        if not found:
            key = _prompt_key(list(row.values), file, columns.prompt)
            _check_seed_column(list(row.values), file, columns.seed)
        elif len(found) == MOST_LINES:
            raise UsageError(f"{file} has more than {MOST_LINES:,} prompts; use a part of it")
        found.append(_line(row, len(found), key, f"{file}, {row.place}", columns))
        letters += len(found[-1].prompt)
        if letters > MOST_BYTES:  # a table may say one text a million times
            raise UsageError(f"{file} has more than {MOST_BYTES:,} letters of prompts; use a part of it")
        for name in having:
            having[name] += row.values.get(name) is not None
    if not found:
        raise UsageError(f"{file} holds no prompts; write one a line")
    for name, count in having.items():
        if 0 < count < len(found):
            raise UsageError(f"{file}: {count} of {len(found)} lines have a key '{name}'; give it to all or to none")
    refuse_twins(found, file)
    return found


def _line(row: Row, number: int, key: str, where: str, columns: _Columns) -> Line:
    values = row.values
    if key not in values:
        raise UsageError(f"{where}: no key {shown(key)}; every line needs it")
    image, label, own = values.get("image"), values.get("class"), values.get("id")
    return Line(
        str(number) if own is None else checked_id(own, where),
        checked_prompt(values[key], where),
        checked_image(image, where) if columns.images and image is not None else None,
        checked_label(label, columns.classes, where) if columns.classes is not None and label is not None else None,
        checked_seed(values.get(columns.seed), where) if columns.seed is not None else None,
    )


def _prompt_key(names: Sequence[str], file: str, column: str | None, types: dict[str, str] | None = None) -> str:
    """The column of the prompts.

    Args:
        names: of the columns that hold text.
        file: for messages.
        column: asked for.
        types: of all columns, where they have any.
    """
    if column is not None:
        if types and column in types and column not in names:
            raise _of_wrong_type(file, column, types[column], "text")
        if column not in names:
            raise _unknown_column(column, names, file)
        return column
    lowered = {key.lower(): key for key in reversed(names)}
    for name in USUAL:
        if name in lowered:
            return lowered[name]
    if types and (other := next((key for key in types if key.lower() in USUAL), None)):
        raise _of_wrong_type(file, other, types[other], "text")
    remedy = "rename one, or say which holds the prompts"
    raise UsageError(f"{file} has no column or key 'prompt', but {listed(names)}; {remedy}")


def _check_seed_column(names: Sequence[str], file: str, column: str | None) -> None:
    if column is not None and column not in names:
        raise _unknown_column(column, names, file)


def _unknown_column(column: str, names: Sequence[str], file: str) -> UsageError:
    short = unknown("column", column, names) if len(names) <= 10 else ""
    if short and len(str(short)) <= 200:
        return UsageError(f"{file}: {short}")
    return UsageError(f"{file}: unknown column {shown(column)}; choose from: {listed(names)}")
