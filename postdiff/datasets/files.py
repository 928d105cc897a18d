"""Files with prompts, whatever their format, as lines.

| ending | form |
| --- | --- |
| .txt | one prompt a line |
| .csv, .tsv | a header, then one prompt a line |
| .jsonl, .ndjson | one JSON object a line |
| .json | a list of objects or of texts |
| .parquet | a table, for instance a manifest |

Text is UTF-8, with or without a byte order mark. The prompt is in the column asked for, or else in the first of
`prompt`, `prompts`, `caption`, `text` that there is. Columns (keys) `id`, `image` and `class` are read where they are
wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postdiff.datasets import formats
from postdiff.datasets.formats import Row
from postdiff.datasets.lines import Line, checked_image, checked_label, checked_prompt, refuse_twins
from postdiff.engine.errors import UsageError, unknown

__all__ = ["USUAL", "read", "read_text"]

USUAL = ("prompt", "prompts", "caption", "text")


def read(file: Path, column: str | None = None, *, images: bool = False, classes: int | None = None) -> list[Line]:
    """All lines of a file, in its order.

    Args:
        file: of one of the formats above.
        column: where the prompts are; None means the usual one.
        images: whether `image` is wanted.
        classes: number of classes if `class` is wanted.

    Raises:
        UsageError: the file is missing, empty or broken, or a line is; told with the line.
    """
    return _lines(formats.rows(file), str(file), column, images, classes)


def read_text(
    name: str, text: str, column: str | None = None, *, images: bool = False, classes: int | None = None
) -> list[Line]:
    """The same for text that was read already, for instance out of an archive; `name` says its format.

    Raises:
        UsageError: see `read`.
    """
    return _lines(formats.rows_of_text(name, text), name, column, images, classes)


def _lines(rows: Sequence[Row], file: str, column: str | None, images: bool, classes: int | None) -> list[Line]:
    if not rows:
        raise UsageError(f"{file} holds no prompts; write one a line")
    key = _prompt_key(rows[0].values, file, column)
    for name, wanted in {"id": True, "image": images, "class": classes is not None}.items():
        having = sum(row.values.get(name) is not None for row in rows)
        if wanted and 0 < having < len(rows):
            raise UsageError(f"{file}: {having} of {len(rows)} lines have a key '{name}'; give it to all or to none")
    found = []
    for number, row in enumerate(rows):
        where, values = f"{file}, {row.place}", row.values
        if key not in values:
            raise UsageError(f"{where}: no key '{key}'; every line needs it")
        image, label = values.get("image"), values.get("class")
        line = Line(
            str(number) if values.get("id") is None else str(values["id"]),
            checked_prompt(values[key], where),
            checked_image(image, where) if images and image is not None else None,
            checked_label(label, classes, where) if classes is not None and label is not None else None,
        )
        found.append(line)
    refuse_twins(found, file)
    return found


def _prompt_key(values: Mapping[str, Any], file: str, column: str | None) -> str:
    if column is not None:
        if column not in values:
            raise UsageError(f"{file}: {unknown('column', column, values)}")
        return column
    lowered = {key.lower(): key for key in reversed(list(values))}
    for name in USUAL:
        if name in lowered:
            return lowered[name]
    there = ", ".join(f"'{key}'" for key in values) or "none"
    raise UsageError(f"{file} has no column or key 'prompt', but {there}; rename one, or say which holds the prompts")
