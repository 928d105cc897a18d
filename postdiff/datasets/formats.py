"""Formats of text with prompts, each read into rows of named values with their place in the file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff.datasets.content import MOST_LINES, parsed_json, shown
from postdiff.engine.errors import UsageError

__all__ = ["ENDINGS", "PARQUET", "TEXTS", "Row", "check_ending", "rows"]

PARQUET = ".parquet"
MOST_COLUMNS = 10_000
BLANK = "\ufeff \t"  # files joined one behind the other have byte order marks in the middle


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        place: "line 3", for messages.
        values: by column or key.
    """

    place: str
    values: dict[str, Any]


def rows(name: str, text: str) -> Iterator[Row]:
    """All rows of text in the format that the ending of `name` says.

    Raises:
        UsageError: no known format, broken, or more lines than a set of prompts may have.
    """
    check_ending(name, tuple(TEXTS))
    return TEXTS[Path(name).suffix.lower()](name, text)


def check_ending(name: str, endings: Sequence[str] = ()) -> None:
    """Refuse a file that is of no known format.

    Args:
        name: of the file.
        endings: that are known; none mean `ENDINGS`.

    Raises:
        UsageError: with those that are.
    """
    ending = Path(name).suffix.lower()
    if ending not in (endings or ENDINGS):
        known = ", ".join(endings or ENDINGS)
        raise UsageError(f"{name}: files ending in {shown(ending)} are not read; use one of {known}")


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
            yield Row(f"line {number}", {"prompt": prompt})


def _csv(name: str, text: str) -> Iterator[Row]:
    reader = csv.reader((line for _, line in _numbered(name, text)), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            # A quoted "" alone in its line is a prompt; nothing at all, or nothing but commas, is a blank line.
            if not fields or (fields != [""] and not any(field.strip() for field in fields)):
                continue
            if header is None:
                header = _header(name, fields)
            else:
                yield _row(name, f"line {reader.line_num}", header, fields)
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num} is not CSV ({error}); mend its quotes") from None


def _tsv(name: str, text: str) -> Iterator[Row]:
    """Tabs part fields and line ends part lines, always; quotes around a whole field, as spreadsheets put them, go."""
    header: list[str] | None = None
    for number, line in _numbered(name, text):
        if not line.strip():
            continue
        if line.count("\t") >= MOST_COLUMNS:
            raise _too_wide(name, line.count("\t") + 1)
        fields = [_unquoted(field) for field in line.rstrip("\r\n").split("\t")]
        if header is None:
            header = _header(name, fields)
        else:
            yield _row(name, f"line {number}", header, fields)


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _header(name: str, fields: Sequence[str]) -> list[str]:
    if len(fields) > MOST_COLUMNS:
        raise _too_wide(name, len(fields))
    header = [field.strip() for field in fields]
    if len(set(header)) < len(header):
        twin = next(field for place, field in enumerate(header) if field in header[:place])
        raise UsageError(f"{name}: two columns are called {shown(twin)}; rename one")
    return header


def _too_wide(name: str, columns: int) -> UsageError:
    return UsageError(f"{name} has {columns:,} columns, more than {MOST_COLUMNS:,}; keep the one with the prompts")


def _row(name: str, place: str, header: Sequence[str], fields: Sequence[str]) -> Row:
    if len(fields) != len(header):
        raise UsageError(
            f"{name}, {place} has {len(fields)} fields, and the header {len(header)} columns; put quotes around text "
            "that holds the separator"
        )
    return Row(place, dict(zip(header, fields, strict=True)))


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in _numbered(name, text):
        if line.strip().strip(BLANK):
            own = line.rstrip("\r\n").lstrip("\ufeff")
            yield _object(name, f"line {number}", parsed_json(own, name, "mend it", number))


def _json(name: str, text: str) -> Iterator[Row]:
    first, _, rest = text.strip().partition("\n")
    if first.startswith("{") and first.rstrip().endswith("}") and rest.strip().startswith("{"):
        yield from _json_lines(name, text)  # JSON lines under the shorter ending
        return
    content = parsed_json(text, name, "mend it")
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        raise UsageError(
            f"{name} is a COCO file; choose among its captions with postdiff data prepare NAME --from FILE"
        )
    if not isinstance(content, list):
        raise UsageError(f"{name} is no list; write [...] of texts, or of objects with a key 'prompt'")
    for number, item in enumerate(content, 1):
        place = f"item {number}"
        yield Row(place, {"prompt": item}) if isinstance(item, str) else _object(name, place, item)


def _object(name: str, place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise UsageError(f"{name}, {place} is no JSON object; write one with a key 'prompt'")
    return Row(place, value)


TEXTS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".txt": _text,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
}
ENDINGS = (*TEXTS, PARQUET)
