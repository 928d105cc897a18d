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
them changes no image. Messages give the number that an editor shows. In every format but .txt "" is a prompt: that of
an unconditional image.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from postdiff.datasets import content
from postdiff.datasets.content import MOST_BYTES, MOST_LINES, listed, parsed_json, shown
from postdiff.datasets.lines import Line, checked_line, refuse_twins
from postdiff.datasets.tables import Table
from postdiff.engine.errors import UsageError, unknown

__all__ = ["ENDINGS", "PARQUET", "TEXTS", "USUAL", "check_ending", "read"]

USUAL = ("prompt", "prompts", "caption", "text")
PARQUET = ".parquet"
MOST_COLUMNS = 10_000
BLANK = "\ufeff \t"  # files joined one behind the other have byte order marks in the middle

Row = tuple[str, dict[str, Any]]  # its place ("line 3", for messages), and values by column or key


@dataclass(frozen=True)
class _Columns:
    """What is read of every line; see `read`."""

    prompt: str | None
    images: bool
    classes: int | None
    seed: str | None


def read(
    file: Path,
    column: str | None = None,
    *,
    images: bool = False,
    classes: int | None = None,
    seeds: str | None = None,
    text: str | None = None,
) -> list[Line]:
    """All lines of a file, in its order.

    Args:
        file: of one of the formats above.
        column: where the prompts are; None means the usual one.
        images: whether `image` is wanted.
        classes: number of classes if `class` is wanted.
        seeds: column of the lines' own seeds, whole numbers from 0 and below 2**63; None means that they have none.
        text: what the file holds, where it was read already, for instance out of an archive.

    Raises:
        UsageError: the file is missing, empty, broken or too large, or a line is; told with the line.
    """
    columns, name = _Columns(column, images, classes, seeds), str(file)
    if text is not None:
        return _lines(TEXTS[check_ending(name, TEXTS)](name, text), name, columns)
    try:
        missing = not file.exists() or file.is_dir()
    except OSError as error:
        raise content.unreadable(file, error) from None
    if missing:
        raise UsageError(f"prompt file {file} is missing; name another one")
    ending = check_ending(name, ENDINGS)
    rows = _rows_of_table(file, columns) if ending == PARQUET else TEXTS[ending](name, content.read_text(file))
    return _lines(rows, name, columns)


def check_ending(name: str, known: Iterable[str]) -> str:
    """The ending of a file's name, in small letters.

    Raises:
        UsageError: none of those known.
    """
    ending = Path(name).suffix.lower()
    if ending not in known:
        raise UsageError(f"{name}: files ending in {shown(ending)} are not read; use one of {', '.join(known)}")
    return ending


def _lines(rows: Iterable[Row], file: str, columns: _Columns) -> list[Line]:
    found: list[Line] = []
    wanted = ["id", *(["image"] if columns.images else []), *(["class"] if columns.classes is not None else [])]
    key, having, letters = "", dict.fromkeys(wanted, 0), 0
    for place, values in rows:
        if not found:
            key = _prompt_key(list(values), file, columns)
        elif len(found) == MOST_LINES:
            raise UsageError(f"{file} has more than {MOST_LINES:,} prompts; use a part of it")
        where = f"{file}, {place}"
        if key not in values:
            raise UsageError(f"{where}: no key {shown(key)}; every line needs it")
        own = {name: values.get(name) for name in wanted}
        fields = {**own, "id": len(found) if own["id"] is None else own["id"], "prompt": values[key]}
        if columns.seed is not None:
            fields["seed"] = values.get(columns.seed)
        line = checked_line(fields, where, columns.classes)
        letters += len(line.prompt)
        if letters > MOST_BYTES:  # a table may say one text a million times
            raise UsageError(f"{file} has more than {MOST_BYTES:,} letters of prompts; use a part of it")
        found.append(line)
        for name in having:
            having[name] += own[name] is not None
    if not found:
        raise UsageError(f"{file} holds no prompts; write one a line")
    for name, count in having.items():
        if 0 < count < len(found):
            raise UsageError(f"{file}: {count} of {len(found)} lines have a key '{name}'; give it to all or to none")
    refuse_twins(found, file)
    return found


def _prompt_key(names: Sequence[str], file: str, columns: _Columns, types: dict[str, str] | None = None) -> str:
    """The column of the prompts; the columns asked for are there.

    Args:
        names: of the columns that hold text.
        file: for messages.
        columns: asked for.
        types: of all columns, where they have any.
    """
    for column, known in ((columns.prompt, names), (columns.seed, [*(types or names)])):
        if column is not None and column not in known:
            if types and column in types:
                raise _of_wrong_type(file, column, types[column], "text")
            short = unknown("column", column, known) if len(known) <= 10 else ""
            if short and len(str(short)) <= 200:
                raise UsageError(f"{file}: {short}")
            raise UsageError(f"{file}: unknown column {shown(column)}; choose from: {listed(known)}")
    if columns.prompt is not None:
        return columns.prompt
    lowered = {key.lower(): key for key in reversed(names)}
    for name in USUAL:
        if name in lowered:
            return lowered[name]
    if types and (other := next((key for key in types if key.lower() in USUAL), None)):
        raise _of_wrong_type(file, other, types[other], "text")
    remedy = "rename one, or say which holds the prompts"
    raise UsageError(f"{file} has no column or key 'prompt', but {listed(names)}; {remedy}")


def _of_wrong_type(file: str, column: str, found: str, wanted: str) -> UsageError:
    return UsageError(f"{file}: column {shown(column)} holds {found[:60]}, not {wanted}; write it anew, or use another")


def _rows_of_table(file: Path, columns: _Columns) -> Iterator[Row]:
    content.refuse_larger(file, content.MOST_STORED, "a table of prompts")
    table = Table(file, "make it again")
    names = {_prompt_key(table.texts, str(file), columns, table.columns): None}
    wanted = {"id": True, "image": columns.images, "class": columns.classes is not None, columns.seed: True}
    for name in (name for name, asked in wanted.items() if asked and name is not None):
        if name in (*table.texts, *table.numbers):
            names[name] = None
        elif name in table.columns and name in ("class", columns.seed):
            raise _of_wrong_type(str(file), name, table.columns[name], "whole numbers")
    for number, values in enumerate(table.read(list(names)), 1):
        yield f"row {number}", values


def _numbered(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers and ends, whether those are of Unix, Windows or old Macs."""
    if max(text.count("\n"), text.count("\r")) > MOST_LINES:
        raise UsageError(f"{name} has more than {MOST_LINES:,} lines; use a part of it")
    # Not `splitlines`: it also splits at characters that may stand inside a prompt.
    for number, line in enumerate(re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text), 1):
        yield number, line.group()


def _text(name: str, text: str) -> Iterator[Row]:
    """Blank lines are nobody's prompts: messages count them, as editors do, and prompts are numbered without them."""
    for number, line in _numbered(name, text):
        if prompt := line.strip().strip(BLANK):
            yield f"line {number}", {"prompt": prompt}


def _csv(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in _numbered(name, text)), strict=True)
    try:
        for fields in reader:
            # A quoted "" alone in its line is a prompt; nothing at all, or nothing but commas, is a blank line.
            if fields == [""] or any(field.strip() for field in fields):
                yield reader.line_num, fields
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num} is not CSV ({error}); mend its quotes") from None


def _tsv(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Tabs part fields and line ends part lines, always; quotes around a whole field, as spreadsheets put them, go."""
    for number, line in _numbered(name, text):
        if line.strip():
            if line.count("\t") >= MOST_COLUMNS:
                raise _too_wide(name, line.count("\t") + 1)
            yield number, [_unquoted(field) for field in line.rstrip("\r\n").split("\t")]


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _too_wide(name: str, columns: int) -> UsageError:
    return UsageError(f"{name} has {columns:,} columns, more than {MOST_COLUMNS:,}; keep the one with the prompts")


def _separated(split: Callable[[str, str], Iterator[tuple[int, list[str]]]], name: str, text: str) -> Iterator[Row]:
    """Rows below a header, of text that `split` parts into fields."""
    header: list[str] | None = None
    for number, fields in split(name, text):
        if header is None:
            if len(fields) > MOST_COLUMNS:
                raise _too_wide(name, len(fields))
            header = [field.strip() for field in fields]
            for twin in (field for place, field in enumerate(header) if field in header[:place]):
                raise UsageError(f"{name}: two columns are called {shown(twin)}; rename one")
        elif len(fields) != len(header):
            raise UsageError(
                f"{name}, line {number} has {len(fields)} fields, and the header {len(header)} columns; put quotes "
                "around text that holds the separator"
            )
        else:
            yield f"line {number}", dict(zip(header, fields, strict=True))


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in _numbered(name, text):
        if line.strip().strip(BLANK):
            value = parsed_json(line.rstrip("\r\n").lstrip("\ufeff"), name, "mend it", number)
            if not isinstance(value, dict):
                raise UsageError(f"{name}, line {number} is no JSON object; write one with a key 'prompt'")
            yield f"line {number}", value


def _json(name: str, text: str) -> Iterator[Row]:
    first, _, rest = text.strip().partition("\n")
    if first.startswith("{") and first.rstrip().endswith("}") and rest.strip().startswith("{"):
        yield from _json_lines(name, text)  # JSON lines under the shorter ending
        return
    items = parsed_json(text, name, "mend it")
    if isinstance(items, dict) and {"images", "annotations"} <= set(items):
        raise UsageError(
            f"{name} is a COCO file; choose among its captions with postdiff data prepare NAME --from FILE"
        )
    if not isinstance(items, list):
        raise UsageError(f"{name} is no list; write [...] of texts, or of objects with a key 'prompt'")
    for number, item in enumerate(items, 1):
        if not isinstance(item, (str, dict)):
            raise UsageError(f"{name}, item {number} is no JSON object; write one with a key 'prompt'")
        yield f"item {number}", item if isinstance(item, dict) else {"prompt": item}


TEXTS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".txt": _text,
    ".csv": partial(_separated, _csv),
    ".tsv": partial(_separated, _tsv),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
}
ENDINGS = (*TEXTS, PARQUET)
