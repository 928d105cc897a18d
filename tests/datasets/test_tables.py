"""Parquet files as others write them: text however it is encoded, columns of other types, and limits."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from postdiff.datasets import content, files, tables
from postdiff.datasets.lines import Line
from postdiff.engine.errors import UsageError

WORDS = ["a red heart", "赤いハート", "a red heart"]


def saved(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    return tmp_path / "p.parquet"


TEXTS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "categories": pa.dictionary(pa.int8(), pa.string()),
    "large categories": pa.dictionary(pa.int32(), pa.large_string()),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_of_every_encoding(tmp_path, kind):
    file = saved(tmp_path, number=pa.array([1, 2, 3]), prompt=pa.array(WORDS).cast(TEXTS[kind]))
    assert [line.prompt for line in files.read(file)] == WORDS


def test_what_stands_beside_the_prompts(tmp_path):
    columns = {
        "caption": pa.array(WORDS),
        "id": pa.array(["x", "y", "z"]).dictionary_encode(),
        "image": pa.array(["1.png", "2.png", "1.png"], pa.string_view()),
        "class": pa.array([2, 0, 1], pa.uint8()),
        "own": pa.array(["7", "7", "0"]),
        "pixels": pa.array([b"\0", b"\1", b"\2"]),
    }
    expected = [
        Line(*row) for row in zip("xyz", WORDS, columns["image"].to_pylist(), (2, 0, 1), (7, 7, 0), strict=True)
    ]
    assert files.read(saved(tmp_path, **columns), images=True, classes=3, seeds="own") == expected
    # Images themselves, as others keep them under this name, are no file names.
    columns["image"] = pa.array([{"bytes": b"\0", "path": "1.png"}] * 3)
    assert [line.image for line in files.read(saved(tmp_path, **columns), images=True)] == [None] * 3


def not_utf_8():
    return pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"prompt": pa.array([["a"], ["b"]])}, {}, r"column 'prompt' holds list<.*>, not text; write it anew"),
        ({"Caption": pa.array([b"a", b"b"])}, {}, "column 'Caption' holds binary, not text"),
        ({"words": pa.array([1, 2])}, {"column": "words"}, "column 'words' holds int64, not text"),
        ({"words": pa.array([1, 2])}, {}, "has no column or key 'prompt', but none"),
        ({"prompt": pa.array(["a", None])}, {}, "row 2: the prompt must be text, not 'None'"),
        ({"prompt": not_utf_8()}, {}, "holds text that is not UTF-8"),
        (
            {"prompt": pa.array(["a"]), "class": pa.array([1.0])},
            {"classes": 2},
            "column 'class' holds double, not whole",
        ),
        (
            {"prompt": pa.array(["a"]), "s": pa.array([0.5])},
            {"seeds": "s"},
            "column 's' holds double, not whole",
        ),
        ({"prompt": pa.array(["a"]), "s": pa.array([-1])}, {"seeds": "s"}, "row 1: seed -1 is no whole number from 0"),
        ({"prompt": pa.array(["a", "b"]), "s": pa.array([1, None])}, {"seeds": "s"}, "row 2 has no seed; give every"),
        ({"prompt": pa.array(["a"]), "n": pa.array([1])}, {"seeds": "s"}, "unknown column 's'; choose from: n, prompt"),
    ],
)
def test_columns_that_cannot_be_what_they_are_asked_for(tmp_path, columns, wanted, message):
    with pytest.raises(UsageError, match=message):
        files.read(saved(tmp_path, **columns), **wanted)


def test_a_table_that_would_fill_the_memory(tmp_path):
    """Two thousand rows of one long text: a file of some kilobytes, and 4 GB were it read as it stands."""
    file = saved(tmp_path, prompt=pa.array(["x" * 2_000_000]).dictionary_encode().take(pa.array([0] * 2000)))
    assert file.stat().st_size < 100_000
    with pytest.raises(UsageError, match="row 1: the prompt has 2000000 characters, more than 2000"):
        files.read(file)


def test_a_text_said_a_million_times(tmp_path, monkeypatch):
    file = saved(tmp_path, prompt=pa.array(["x" * 1900]).dictionary_encode().take(pa.array([0] * 100)))
    monkeypatch.setattr(files, "MOST_BYTES", 50 * 1900)
    with pytest.raises(UsageError, match="p.parquet has more than 95,000 letters of prompts; use a part of it"):
        files.read(file)


def test_limits_are_stated(tmp_path, monkeypatch):
    file = saved(tmp_path, prompt=pa.array([f"{i} " + "x" * 100 for i in range(100)]))
    monkeypatch.setattr(tables, "MOST_LINES", 99)
    with pytest.raises(UsageError, match="p.parquet has 100 rows, more than 99; use a part of it"):
        files.read(file)
    monkeypatch.setattr(tables, "MOST_LINES", 100)
    monkeypatch.setattr(tables, "MOST_BYTES", 5000)
    with pytest.raises(UsageError, match="MB of text, more than .* MB; use a part of it"):
        files.read(file)
    monkeypatch.setattr(content, "MOST_STORED", 100)
    with pytest.raises(UsageError, match="and a table of prompts may have"):
        files.read(file)
