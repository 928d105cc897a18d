"""Formats of files with prompts, each read into rows of named values with their place in the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff.engine.errors import UsageError

__all__ = ["ENDINGS", "Row", "decoded", "rows", "rows_of_text"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        place: "line 3", for messages.
        values: by column or key.
    """

    place: str
    values: dict[str, Any]


def rows(file: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        UsageError: it is missing, of no known format, or broken.
    """
    if not file.is_file():
        raise UsageError(f"prompt file {file} is missing; name another one")
    if file.suffix.lower() == ".parquet":
        return list(_parquet(file))
    return rows_of_text(str(file), decoded(file.read_bytes(), str(file)))


def rows_of_text(name: str, text: str) -> list[Row]:
    """All rows of text in the format that the ending of `name` says.

    Raises:
        UsageError: no known format, or broken.
    """
    ending = Path(name).suffix.lower()
    if ending not in TEXTS:
        raise UsageError(f"{name}: files ending in '{ending}' are not read; use one of {', '.join(ENDINGS)}")
    return list(TEXTS[ending](name, text))


def decoded(content: bytes, name: str) -> str:
    """Bytes as text.

    Raises:
        UsageError: they are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"byte 0x{content[error.start]:02x} in line {line}"
        raise UsageError(f"{name} is not UTF-8 ({byte}); save it as UTF-8") from None


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    # Not `splitlines`: it also splits at characters that may stand inside a prompt.
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.removesuffix("\r")


def _text(name: str, text: str) -> Iterator[Row]:
    # Blank lines at the end are nobody's prompts; those between others are told of.
    for number, line in _numbered(text.rstrip()) if text.strip() else ():
        yield Row(f"line {number}", {"prompt": line.strip()})


def _csv(name: str, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
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
    for number, line in _numbered(text):
        fields = [_unquoted(field) for field in line.split("\t")]
        if not line.strip():
            continue
        if header is None:
            header = _header(name, fields)
        else:
            yield _row(name, f"line {number}", header, fields)


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _header(name: str, fields: Sequence[str]) -> list[str]:
    header = [field.strip() for field in fields]
    for field in header:
        if header.count(field) > 1:
            raise UsageError(f"{name}: two columns are called '{field}'; rename one")
    return header


def _row(name: str, place: str, header: Sequence[str], fields: Sequence[str]) -> Row:
    if len(fields) != len(header):
        raise UsageError(
            f"{name}, {place} has {len(fields)} fields, and the header {len(header)} columns; put quotes around text "
            "that holds the separator"
        )
    return Row(place, dict(zip(header, fields, strict=True)))


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in _numbered(text):
        if line.strip():
            yield _object(name, f"line {number}", _loaded(name, line, number))


def _json(name: str, text: str) -> Iterator[Row]:
    first, _, rest = text.strip().partition("\n")
    if first.startswith("{") and first.rstrip().endswith("}") and rest.strip().startswith("{"):
        yield from _json_lines(name, text)  # JSON lines under the shorter ending
        return
    content = _loaded(name, text)
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


def _loaded(name: str, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise UsageError(f"{name} is not JSON at {place} ({error.msg}); mend it") from None
    except RecursionError:
        raise UsageError(f"{name} is nested too deep to be a list of prompts; mend it") from None


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            # Pictures and embeddings, which such tables often hold as well, would only cost memory.
            plain = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
            whole = [f.name for f in schema if pa.types.is_integer(f.type) and f.name in ("id", "class")]
            names = [f.name for f in schema if f.name in {*plain, *whole}]
            table = opened.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{file} cannot be read as Parquet ({reason}); make it again") from None
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"row {number}", values)


TEXTS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".txt": _text,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
}
ENDINGS = (*TEXTS, ".parquet")
