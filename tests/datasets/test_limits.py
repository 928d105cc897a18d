"""Files that would fill the memory, never end, or are none: told in one line, before they are read."""

import json
import os
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from postdiff.datasets import archives, content, files
from postdiff.datasets.source_card import DatasetSource
from postdiff.engine.errors import UsageError

ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


def found(file):
    return archives.find(DatasetSource(), file, file.parent)


READERS = {"data=FILE": files.read, "--from FILE": found}


@pytest.mark.parametrize("ending", [*ENDINGS, ".zip"])
def test_a_sparse_file_of_20_gb(tmp_path, ending):
    file = tmp_path / f"p{ending}"
    with file.open("wb") as stream:
        stream.truncate(20_000_000_000)
    readers = READERS.values() if ending != ".zip" else [found]
    for read in readers:
        with pytest.raises(UsageError, match=r"has 20,000 MB, and a (file|table) of prompts may have [\d,]+ MB; use a"):
            read(file)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_what_never_ends(tmp_path, ending, kind):
    file = tmp_path / f"p{ending}"
    if kind == "FIFO":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="is no regular file"):
        files.read(file)
    with pytest.raises(UsageError, match="is no file or folder"):
        found(file)


def test_files_that_grow_or_have_no_size_are_bounded_too(tmp_path, monkeypatch):
    file = tmp_path / "p.txt"
    file.write_text("a" * 100)
    monkeypatch.setattr(content, "MOST_BYTES", 50)
    monkeypatch.setattr(content, "refuse_larger", lambda *_: None)
    with pytest.raises(UsageError, match="has more than 0 MB; use a part of it"):
        content.read_text(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\n" * 101),
        ("p.txt", "\r" * 101),
        ("p.txt", "a\n" * 101),
        ("p.csv", "prompt\n" + "a\n" * 101),
        ("p.tsv", "prompt\n" + "a\n" * 101),
        ("p.jsonl", '{"prompt": "a"}\n' * 101),
        ("p.json", json.dumps(["a"] * 101)),
    ],
)
def test_more_lines_than_a_set_may_have(tmp_path, monkeypatch, name, text):
    monkeypatch.setattr(files, "MOST_LINES", 100)
    with pytest.raises(UsageError, match="has more than 100 (lines|prompts); use a part of it"):
        files.read(Path(name), text=text)


@pytest.mark.parametrize("text", ["[" + "{}," * 100 + "{}]", "[" + "[],[" * 100, '{"images": [' + "[]," * 100])
@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_json_of_many_empty_lists(monkeypatch, name, text):
    monkeypatch.setattr(content, "MOST_CONTAINERS", 50)
    with pytest.raises(UsageError, match="holds more than 50 lists and objects; use a part of it"):
        files.read(Path(name), text=text)
    monkeypatch.setattr(content, "MOST_TEXTS", 50)
    with pytest.raises(UsageError, match="holds more than 50 texts; use a part of it"):
        files.read(Path(name), text=json.dumps(["ab"] * 51))


def test_json_nested_at_any_depth_is_read_or_reported():
    for depth in (2, 100, 500, 900, 990, 2000, 100_000):
        with pytest.raises(UsageError) as error:
            files.read(Path("p.json"), text='[{"prompt": ' + "[" * depth + "]" * depth + "}]")
        assert len(str(error.value)) < 150


def packed(tmp_path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(tmp_path / "p.zip", "w", compression) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", ".").replace("_in_", "/"), text)
    return tmp_path / "p.zip"


def test_a_zip_bomb(tmp_path):
    file = packed(tmp_path, p__txt=b"a" * 101_000_000)
    assert file.stat().st_size < 200_000
    with pytest.raises(
        UsageError, match="'p.txt' has 101 MB unpacked, and a file of prompts may have 100 MB; use a part"
    ):
        found(file)


def test_a_zip_that_lies_about_its_size(tmp_path):
    file = packed(tmp_path, p__txt=b"a" * 5_000_000)
    real, lie = (5_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(real, lie))
    with pytest.raises(UsageError, match="is no sound zip archive|prompt has"):
        found(file)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives(tmp_path, compression):
    """Whichever byte of it was changed, it is read rightly or told."""
    text = "".join(f"prompt {i}\n" for i in range(50))
    sound = packed(tmp_path, compression, p__txt=text).read_bytes()
    message = 0
    for place in range(0, len(sound), 3):
        (tmp_path / "p.zip").write_bytes(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
        try:
            assert found(tmp_path / "p.zip").text == text
        except UsageError as error:
            message += 1
            assert "\n" not in str(error)
    assert message > len(sound) // 9


def test_archives_of_macs_and_of_too_many_files(tmp_path, monkeypatch):
    assert found(packed(tmp_path, p__txt="a", __MACOSX_in_=b"", **{"x_in_._p__txt": b"\0"})).text == "a"
    file = packed(tmp_path, **{f"{i}__txt": "a" for i in range(50)})
    with pytest.raises(UsageError, match="holds 50 files with prompts; unpack it and name one"):
        found(file)
    monkeypatch.setattr(archives, "MOST_DIRECTORY", 1000)
    with pytest.raises(UsageError, match="holds too many files to look through; unpack it"):
        found(file)


def test_names_as_messages_repeat_them():
    shown = [
        content.shown(value) for value in ("a", "x" * 500, "\x1b[31m\n", [[[[1]]]], {"a": {"b": {"c": 1}}}, 10**4000)
    ]
    assert all(len(text) < 80 and text.isprintable() for text in shown)
    lists = [content.listed(["x" * 20] * count) for count in (0, 1, 3, 4, 5, 1000)]
    assert lists[0] == "none" and all(len(a) <= len(b) for a, b in pairwise(lists[:4]))
    assert all(len(text) < 200 for text in lists) and lists[-1].endswith("996 more")
