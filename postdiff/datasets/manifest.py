"""A manifest: the lines of a data set frozen in a Parquet file, with where they come from and how they were chosen.

Columns: `id`, `prompt`, and where there are any, `image` (file name of the image that belongs to the line), `class`
and `seed` (the line's own). The file's metadata holds under `postdiff_manifest` a JSON object with the other fields of
`Manifest`. The same choice gives the same bytes with the same pyarrow, and the same `content` with every version.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from postdiff.datasets.content import MOST_STORED, parsed_json, refuse_larger, shown
from postdiff.datasets.lines import Line, checked_line, refuse_twins
from postdiff.datasets.tables import Table
from postdiff.engine.errors import UsageError

__all__ = ["FORMAT", "MOST_CLASSES", "Manifest", "Origin", "is_manifest"]

FORMAT = 1
KEY = b"postdiff_manifest"
MOST_CLASSES = 1_000_000
ANEW = "remove it and prepare it again"
COLUMNS = ("id", "prompt", "image", "class", "seed")


@dataclass(frozen=True)
class Origin:
    """A file that lines come from.

    Attributes:
        file: its name, without the folder.
        sha256: of its bytes, 64 hexadecimal digits.
        published: whether its published checksum was met; None if none is known.
    """

    file: str
    sha256: str
    published: bool | None = None


@dataclass(frozen=True)
class Manifest:
    """Lines of a data set, frozen.

    Attributes:
        name: of the set.
        kind: `captions`, `prompts` or `classes`.
        rule: what was asked for (choose, count, seed, column) and, under `told`, a sentence that says it.
        seeds: every line is sampled with each of them, if a run sets none.
        origins: the files it comes from, an archive before what was taken out of it.
        lines: the choice.
        classes: number of classes, if the lines have any.
    """

    name: str
    kind: str
    rule: dict[str, Any]
    seeds: tuple[int, ...]
    origins: tuple[Origin, ...]
    lines: tuple[Line, ...]
    classes: int | None = None

    @functools.cached_property
    def content(self) -> str:
        """SHA-256 of the lines: what they are, whoever chose them and however."""
        found = hashlib.sha256()
        for line in self.lines:
            # Lines without a seed count as they did before there were any.
            own = [] if line.seed is None else [line.seed]
            found.update(json.dumps([line.id, line.prompt, line.image, line.label, *own]).encode() + b"\n")
        return found.hexdigest()

    @property
    def images(self) -> tuple[str, ...]:
        """File names of the images that belong to the lines, each once, in order; empty if there are none."""
        return tuple(dict.fromkeys(line.image for line in self.lines if line.image is not None))

    def to_bytes(self) -> bytes:
        """The Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "id": pa.array([line.id for line in self.lines], pa.string()),
            "prompt": pa.array([line.prompt for line in self.lines], pa.string()),
        }
        if any(line.image is not None for line in self.lines):
            columns["image"] = pa.array([line.image for line in self.lines], pa.string())
        if self.classes is not None:
            columns["class"] = pa.array([line.label for line in self.lines], pa.int32())
        if any(line.seed is not None for line in self.lines):
            columns["seed"] = pa.array([line.seed for line in self.lines], pa.int64())
        about = {
            "format": FORMAT,
            "name": self.name,
            "kind": self.kind,
            "rule": self.rule,
            "seeds": list(self.seeds),
            "origins": [asdict(origin) for origin in self.origins],
            "classes": self.classes,
            "content": self.content,
        }
        table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(about, sort_keys=True)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def load(cls, file: Path) -> Manifest:
        """Read a manifest.

        Raises:
            UsageError: it is missing, damaged, changed by hand, of another format, or no manifest.
        """
        if not file.is_file():
            raise UsageError(f"manifest {file} is missing; make it with 'postdiff data prepare'")
        stamp = file.stat()
        return _loaded(file, stamp.st_mtime_ns, stamp.st_size)


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed twice")
    return seeds


@dataclass
class _About:
    """What the metadata must be; a file that somebody else wrote may hold anything."""

    name: str
    kind: Literal["captions", "prompts", "classes"]
    rule: dict[str, str | int | None]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1), AfterValidator(_different)]
    origins: list[Origin]
    classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None
    content: str


@functools.lru_cache(maxsize=4)
def _loaded(file: Path, *_stamp: int) -> Manifest:
    """The manifest in a file of that stamp, read once: a run asks for its card and for its lines."""
    refuse_larger(file, MOST_STORED, "a manifest")
    table = Table(file, ANEW)
    about = _about(table)
    if about is None:
        raise UsageError(f"{file} is no manifest; make one with 'postdiff data prepare NAME --from {file.name}'")
    if type(about.get("format")) is not int or about["format"] != FORMAT:
        raise UsageError(f"{file} has format {shown(about.get('format'))}, this PostDiff reads {FORMAT}; {ANEW}")
    try:
        sound = TypeAdapter(_About).validate_json(json.dumps(about), strict=True)
    except ValidationError as error:
        key = error.errors(include_url=False)[0]["loc"][0]
        value = shown(about[key]) if key in about else "missing"
        raise UsageError(f"{file} is not a whole manifest ({key}: {value}); {ANEW}") from None
    lines = tuple(_lines(table, sound.classes))
    found = Manifest(sound.name, sound.kind, sound.rule, tuple(sound.seeds), tuple(sound.origins), lines, sound.classes)
    if found.content != sound.content:
        raise UsageError(f"{file} was changed after it was prepared; {ANEW}")
    refuse_twins(found.lines, str(file))
    return found


def is_manifest(file: Path) -> bool:
    """Whether a Parquet file is a manifest, and not any table with prompts.

    Raises:
        UsageError: it cannot be read as Parquet.
    """
    return file.is_file() and _about(Table(file, "make it again")) is not None


def _about(table: Table) -> dict[str, Any] | None:
    """What the metadata of a manifest hold; None of another table."""
    text = table.metadata.get(KEY)
    if text is None:
        return None
    found = parsed_json(text.decode("utf-8", "replace"), f"{table.file}, metadata", ANEW)
    return found if isinstance(found, dict) else {}


def _lines(table: Table, classes: int | None) -> Iterator[Line]:
    if missing := [name for name in COLUMNS[:2] if name not in table.texts]:
        raise UsageError(f"{table.file} is not a whole manifest (no text in column '{missing[0]}'); {ANEW}")
    names = [name for name in COLUMNS if name in (*table.texts, *table.numbers)]
    for row in table.read(names):
        yield checked_line(row, f"{table.file}, line {shown(row['id'])}", classes)
