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
    ("change", "message"),
    [
        (lambda about, rows: rows[0].update(prompt="a car"), "was changed after it was prepared"),
        (lambda about, rows: rows.reverse(), "was changed after it was prepared"),
        (lambda about, rows: rows.pop(), "was changed after it was prepared"),
        (lambda about, rows: rows[0].update(image="../x.png"), "is no file name below a folder"),
        (lambda about, rows: about.update(format=2), "has format 2, this PostDiff reads 1; remove it and prepare"),
        (lambda about, rows: about.pop("seeds"), "is not a whole manifest"),
    ],
)
def test_what_was_changed_is_refused(tmp_path, change, message):
    file = saved(tmp_path)
    changed(file, change)
    with pytest.raises(UsageError, match=message):
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


def test_seeds_of_lines_are_kept_and_counted(tmp_path):
    lines = tuple(dataclasses.replace(line, seed=seed) for line, seed in zip(LINES, (0, 7, 2**63 - 1), strict=True))
    seeded = dataclasses.replace(MADE, lines=lines)
    assert Manifest.load(saved(tmp_path, seeded)) == seeded and seeded.content != MADE.content
    file = saved(tmp_path, seeded)
    changed(file, lambda about, rows: rows[0].update(seed=1))
    with pytest.raises(UsageError, match="was changed after it was prepared"):
        Manifest.load(file)


DEEP = {"a": {}}
for _ in range(20):
    DEEP = {"a": DEEP}
ODD = (None, "x", 0.5, [], {}, [[1]], DEEP, True, -1, 2**70, "9" * 300)
VALUES = {
    "format": (1,),
    "name": ("mini", "x", "9" * 300),
    "kind": ("captions",),
    "rule": ({},),
    "origins": ([],),
    "classes": (None,),
    "content": (MADE.content,),
}


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_metadata_may_hold_anything(tmp_path, key, value):
    file = saved(tmp_path)
    changed(file, lambda about, rows: about.update({key: value}))
    if value in VALUES[key] and type(value) in {type(sound) for sound in VALUES[key]}:
        Manifest.load(file)
        return
    with pytest.raises(UsageError, match=r"mini.parquet (has format|is not a whole|was changed)") as error:
        Manifest.load(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 180 + len(str(tmp_path))


@pytest.mark.parametrize(
    "seeds", [None, 3, "a", [], [0.5], ["a"], [True], [[1]], [-1], [2**70], [2**63], [1, 1], [None], {"a": 1}]
)
def test_seeds_that_a_run_would_not_take(tmp_path, seeds):
    file = saved(tmp_path)
    changed(file, lambda about, rows: about.update(seeds=seeds))
    with pytest.raises(UsageError, match=r"is not a whole manifest \(seeds: .*\); remove it and prepare it again"):
        Manifest.load(file)


@pytest.mark.parametrize(
    "origin", [None, 3, {}, {"file": "a"}, {"file": 1, "sha256": "", "published": None}, {"file": "a", "more": 1}]
)
def test_origins_that_are_none(tmp_path, origin):
    file = saved(tmp_path)
    changed(file, lambda about, rows: about.update(origins=[origin]))
    with pytest.raises(UsageError, match=r"is not a whole manifest \(origins: "):
        Manifest.load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deep|is not JSON"),
        (b"{", "is not JSON at line 1"),
        (b"\xff\xfe", "is not JSON"),
        (b"9" * 5000, "a number of more than 4,300 digits"),
        (b"[]", "has format None"),
        (b"null", "has format None"),
    ],
)
def test_metadata_that_are_no_object(tmp_path, text, message):
    file = tmp_path / "mini.parquet"
    pq.write_table(pa.table({"prompt": ["a"]}).replace_schema_metadata({manifest.KEY: text}), file)
    with pytest.raises(UsageError, match=message):
        Manifest.load(file)


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["a"]},
        {"id": ["1"]},
        {"id": [1], "prompt": ["a"]},
        {"id": [None], "prompt": ["a"]},
        {"id": ["1"], "prompt": [None]},
        {"id": ["1"], "prompt": [b"a"]},
        {"id": ["1"], "prompt": ["a"], "seed": [None]},
        {"id": ["1"], "prompt": ["a"], "seed": pa.array([-1])},
        {"id": ["1"], "prompt": ["a"], "seed": ["x"]},
        {"id": ["1"], "prompt": ["a"], "class": ["x"]},
    ],
)
def test_columns_that_are_not_a_manifest_s(tmp_path, columns):
    metadata = pq.read_table(saved(tmp_path)).schema.metadata
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "mini.parquet")
    with pytest.raises(UsageError) as error:
        Manifest.load(tmp_path / "mini.parquet")
    assert "\n" not in str(error.value)
