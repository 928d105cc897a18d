"""Manifests: written and read back, the same twice, and refused when they are not what was written."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from postdiff.datasets import manifest
from postdiff.datasets.lines import Line
from postdiff.datasets.manifest import Manifest, Origin, is_manifest
from postdiff.engine.errors import UsageError

ORIGINS = (Origin("a.zip", "0" * 64, True), Origin("a.json", "1" * 64))
LINES = (Line("7-1", "a cat ☕", "x/1.jpg"), Line("7-2", "a dog", "x/1.jpg"), Line("9-4", "a cow", "2.jpg"))
RULE = {"choose": "captions", "count": 3, "seed": 0, "column": None, "told": "3 of 9 captions drawn with seed 0"}
MADE = Manifest("mini", "captions", RULE, (0, 4), ORIGINS, LINES)


def saved(tmp_path, made=MADE):
    file = tmp_path / "mini.parquet"
    file.write_bytes(made.to_bytes())
    return file


def test_what_is_written_is_read(tmp_path):
    file = saved(tmp_path)
    assert Manifest.load(file) == MADE and MADE.images == ("x/1.jpg", "2.jpg") and is_manifest(file)
    numbered = Manifest("few", "classes", RULE, (0,), (), (Line("0", "tench", None, 5),), 8)
    assert Manifest.load(saved(tmp_path, numbered)) == numbered


def test_the_same_choice_gives_the_same_bytes():
    again = Manifest("mini", "captions", dict(reversed(RULE.items())), (0, 4), ORIGINS, LINES)
    assert again.to_bytes() == MADE.to_bytes()
    assert dataclasses.replace(MADE, name="other").content == MADE.content
    # Frozen: were the hash made in another way, every manifest in use would be refused.
    assert MADE.content == "ebb1e5547ca4e6458adb914ac59a43ea303414c8b7857e3f553c39f69349e1f6"


def test_other_tools_read_it(tmp_path):
    table = pq.read_table(saved(tmp_path))
    assert table.column_names == ["id", "prompt", "image"] and table["prompt"].to_pylist()[0] == "a cat ☕"
    about = json.loads(table.schema.metadata[b"postdiff_manifest"])
    assert about["name"] == "mini" and about["seeds"] == [0, 4] and about["origins"][1]["sha256"] == "1" * 64


def changed(file, change):
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[manifest.KEY])
    rows = table.to_pylist()
    change(about, rows)
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({manifest.KEY: json.dumps(about)}), file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda about, rows: rows[0].update(prompt="a car"), "was changed after it was prepared"),
        (lambda about, rows: rows.reverse(), "was changed after it was prepared"),
        (lambda about, rows: rows.pop(), "was changed after it was prepared"),
        (lambda about, rows: rows[0].update(image="../x.png"), "is no file name below a folder"),
        (lambda about, rows: about.update(format=2), "has format 2, this PostDiff reads 1; remove it and prepare"),
        (lambda about, rows: about.pop("seeds"), "is not a whole manifest"),
    ],
)
def test_what_was_changed_is_refused(tmp_path, change, told):
    file = saved(tmp_path)
    changed(file, change)
    with pytest.raises(UsageError, match=told):
        Manifest.load(file)


def test_what_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is missing; make it with 'postdiff data prepare'"):
        Manifest.load(tmp_path / "no.parquet")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "plain.parquet")
    assert not is_manifest(tmp_path / "plain.parquet")
    with pytest.raises(UsageError, match="is no manifest"):
        Manifest.load(tmp_path / "plain.parquet")
    half = saved(tmp_path)
    half.write_bytes(half.read_bytes()[:300])
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        Manifest.load(half)
