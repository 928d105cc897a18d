"""A manifest: the lines of a data set frozen in a Parquet file, with where they come from and how they were chosen.

Columns: `id`, `prompt`, and where there are any, `image` (file name of the picture that belongs to the line) and
`class`. The file's metadata holds under `postdiff_manifest` a JSON object with the other fields of `Manifest`. The same
choice gives the same bytes with the same pyarrow, and the same `content` with every version.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from postdiff.datasets.lines import Line, checked_image, checked_prompt, refuse_twins
from postdiff.engine.errors import UsageError

__all__ = ["FORMAT", "Manifest", "Origin", "is_manifest"]

FORMAT = 1
KEY = b"postdiff_manifest"


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
        seeds: every line is drawn with each of them, if a run sets none.
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
            found.update(json.dumps([line.id, line.prompt, line.image, line.label]).encode() + b"\n")
        return found.hexdigest()

    @property
    def images(self) -> tuple[str, ...]:
        """File names of the pictures that belong to the lines, each once, in order; empty if there are none."""
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


@functools.lru_cache(maxsize=4)
def _loaded(file: Path, *_stamp: int) -> Manifest:
    """The manifest in a file of that stamp, read once: a run asks for its card and for its lines."""
    about, rows = _read(file)
    if about is None:
        raise UsageError(f"{file} is no manifest; make one with 'postdiff data prepare NAME --from {file.name}'")
    if about.get("format") != FORMAT:
        raise UsageError(
            f"{file} has format {about.get('format')}, this PostDiff reads {FORMAT}; remove it and prepare it again"
        )
    try:
        found = Manifest(
            about["name"],
            about["kind"],
            about["rule"],
            tuple(about["seeds"]),
            tuple(Origin(**origin) for origin in about["origins"]),
            tuple(_line(row, str(file)) for row in rows),
            about["classes"],
        )
        written = about["content"]
    except (KeyError, TypeError):
        raise UsageError(f"{file} is not a whole manifest; remove it and prepare it again") from None
    if found.content != written:
        raise UsageError(f"{file} was changed after it was prepared; remove it and prepare it again")
    refuse_twins(found.lines, str(file))
    return found


def is_manifest(file: Path) -> bool:
    """Whether a Parquet file is a manifest, and not any table with prompts.

    Raises:
        UsageError: it cannot be read as Parquet.
    """
    return file.is_file() and _read(file, columns=[])[0] is not None


def _line(row: dict[str, Any], where: str) -> Line:
    image = row.get("image")
    return Line(
        row["id"],
        checked_prompt(row["prompt"], where),
        None if image is None else checked_image(image, where),
        row.get("class"),
    )


def _read(file: Path, columns: list[str] | None = None) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            text = (opened.schema_arrow.metadata or {}).get(KEY)
            about = None if text is None else json.loads(text)
            rows = [] if about is None or columns == [] else opened.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{file} cannot be read as Parquet ({reason}); remove it and prepare it again") from None
    return (about if isinstance(about, dict) else None), rows
