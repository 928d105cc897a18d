"""Keys of earlier versions: they still work, and are told of once."""

import io
import json

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from experiments.rewrite_records import main, rewritten
from postdiff.engine.errors import UsageError
from postdiff.lab.config import schema
from postdiff.lab.data.samples import Sample
from postdiff.lab.images.marked_png import CorruptImageError, encode, read
from postdiff.lab.records.record import SCHEMA, Record


@pytest.fixture(autouse=True)
def _fresh():
    schema._warn.cache_clear()


def test_old_keys_become_todays_with_one_warning_each(capsys):
    old = {"steps": 5, "mirror": {"pictures": 3, "tags": ["a"]}}
    for _ in range(2):
        assert schema.long_form(old) == {"steps": 5, "logger": {"images": 3, "tags": ["a"]}}
    assert [line.split("'")[1:4:2] for line in capsys.readouterr().err.splitlines()] == [
        ["mirror", "logger"],
        ["logger.pictures", "logger.images"],
    ]


def test_todays_keys_stay_and_nothing_is_said(capsys):
    values = {"logger": {"images": 3}, "methods": [{"pictures": 1}], "pictures": 2}
    assert schema.long_form(values) == values and capsys.readouterr().err == ""


def test_both_spellings_are_refused():
    with pytest.raises(UsageError, match="'mirror' is the old name of 'logger'"):
        schema.long_form({"mirror": {}, "logger": {}})


def test_a_record_keeps_every_number_and_a_second_time_changes_nothing(tmp_path):
    old = {
        "kind": "quality",
        "pictures": "abc",
        "config": {"mirror": {"pictures": 16, "timeout": 30.0}},
        "metrics": {"fid": {"value": 0.1, "identity": {"real_pictures": 7, "unit": "dB"}}},
    }
    new = {
        "kind": "quality",
        "images": "abc",
        "config": {"logger": {"images": 16, "timeout": 30.0}},
        "metrics": {"fid": {"value": 0.1, "identity": {"reference_images": 7, "unit": "dB"}}},
    }
    assert rewritten(old) == new and rewritten(new) == new
    file = tmp_path / "a" / "row.json"
    file.parent.mkdir()
    file.write_text(json.dumps(old, indent=1) + "\n")
    for _ in range(2):
        assert main([str(tmp_path)]) == 0
        assert file.read_text() == json.dumps(new, indent=1) + "\n"


def test_a_record_with_both_spellings_is_left_and_named(tmp_path, capsys):
    file = tmp_path / "row.json"
    file.write_text(text := json.dumps({"kind": "quality", "pictures": "a", "images": "b"}))
    assert main([str(tmp_path)]) == 1
    assert file.read_text() == text and str(file) in capsys.readouterr().err


def test_a_record_of_an_earlier_version_names_what_rewrites_it(tmp_path):
    file = tmp_path / "row.json"
    file.write_text(json.dumps({"schema": SCHEMA, "kind": "quality", "pictures": "abc"}))
    with pytest.raises(UsageError, match=f"rewrite_records.py {tmp_path}'"):
        Record.read(file)


def test_an_image_of_an_earlier_version_is_kept(tmp_path):
    sample, image = Sample(0, "a red apple", 7), torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    with Image.open(io.BytesIO(encode(sample, image, "abc", "def"))) as png:
        chunk = json.loads(png.info["postdiff"])
        chunk["pictures"] = chunk.pop("images")
        chunks = PngInfo()
        chunks.add_itxt("postdiff", json.dumps(chunk))
        png.save(file := tmp_path / "00000.png", pnginfo=chunks)
    assert torch.equal(read(file, sample, "abc", "def"), image)
    with pytest.raises(CorruptImageError, match="other settings"):
        read(file, sample, "xyz", "def")
