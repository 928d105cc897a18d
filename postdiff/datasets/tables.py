"""Parquet files, read within limits: columns of text keep each value once, so that no file grows while it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postdiff.datasets.content import MB, MOST_BYTES, MOST_LINES, unreadable
from postdiff.engine.errors import UsageError

__all__ = ["Table"]


class Table:
    """What a Parquet file says of itself; nothing but its end is read before `read`.

    Args:
        file: where it is.
        remedy: what to do if it is broken, for messages.

    Attributes:
        columns: {name: type in Arrow's words} of all columns.
        texts: names of the columns of text, however they are encoded.
        numbers: names of the columns of whole numbers.
        metadata: of the file, {key: value}.

    Raises:
        UsageError: it cannot be read as Parquet.
    """

    def __init__(self, file: Path, remedy: str) -> None:
        import pyarrow.parquet as pq
        from pyarrow import types

        self.file, self.remedy = file, remedy
        with _message(file, remedy), pq.ParquetFile(file) as found:
            schema, self.rows = found.schema_arrow, found.metadata.num_rows
        self.metadata: dict[bytes, bytes] = schema.metadata or {}
        self.columns = {field.name: str(field.type) for field in schema}
        # Pandas writes categories as dictionaries.
        kinds = {f.name: f.type.value_type if types.is_dictionary(f.type) else f.type for f in schema}
        text = (types.is_string, types.is_large_string, types.is_string_view)
        self.texts = [name for name, kind in kinds.items() if any(check(kind) for check in text)]
        self.numbers = [name for name, kind in kinds.items() if types.is_integer(kind)]

    def read(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of some columns, one after the other.

        Args:
            names: among `texts` and `numbers`.

        Raises:
            UsageError: more rows or text than a set of prompts may have, or the file is broken.
        """
        import pyarrow.parquet as pq

        if self.rows > MOST_LINES:
            raise UsageError(f"{self.file} has {self.rows:,} rows, more than {MOST_LINES:,}; use a part of it")
        # As a dictionary, a column takes no more memory than the file says that it has bytes.
        texts = [name for name in names if name in self.texts]
        with _message(self.file, self.remedy), pq.ParquetFile(self.file, read_dictionary=texts) as found:
            groups = range(found.metadata.num_row_groups)
            parts = [found.metadata.row_group(group) for group in groups]
            stored = [part.column(place) for part in parts for place in range(part.num_columns)]
            size = sum(column.total_uncompressed_size for column in stored if column.path_in_schema in names)
            if size > MOST_BYTES:
                most = f"{MOST_BYTES // MB} MB"
                raise UsageError(f"{self.file} has {size / MB:,.0f} MB of text, more than {most}; use a part of it")
            for group in groups:
                part = found.read_row_group(group, columns=list(names))
                columns = [_values(part.column(name)) for name in names]
                for _ in range(part.num_rows):
                    yield {name: next(values) for name, values in zip(names, columns, strict=True)}


def _values(column: Any) -> Iterator[Any]:
    """The values of a column as Python's; equal text of one chunk is one object."""
    from pyarrow import types

    for chunk in column.chunks:
        if types.is_dictionary(chunk.type):
            known = chunk.dictionary.to_pylist()
            yield from (None if place is None else known[place] for place in chunk.indices.to_pylist())
        else:
            yield from chunk.to_pylist()


@contextmanager
def _message(file: Path, remedy: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except UsageError:
        raise
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} holds text that is not UTF-8 ({error.reason}); write it as UTF-8") from None
    except PermissionError as error:
        raise unreadable(file, error) from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{file} cannot be read as Parquet ({reason}); {remedy}") from None
