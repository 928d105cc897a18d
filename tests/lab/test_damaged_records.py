"""Records that are not what was written: refused in one line by whoever reads them, and made anew by a run."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.config import experiment
from postdiff.lab.files import typed
from postdiff.lab.records.record import Record, find, fresh_path, full
from postdiff.lab.tables.rows import flat_rows
from tests.lab import runs
from tests.lab.test_results import record

TIMES = {"median_s": 2.0, "q25_s": 1.9, "q75_s": 2.1, "batch_size": 1, "session": "s", "loop": {"median_s": 1.5}}
WHOLE = {
    "quality": dataclasses.asdict(record(curves={"emoji_text_score": {"0": [1.0, 2.0]}})),
    "speed": dataclasses.asdict(record(kind="speed", metrics={}, latency={**TIMES, "rounds_s": [2.0, 2.0]})),
}
DEEP = "[" * 100_000 + "]" * 100_000


def placed(content, path, value):
    """A copy of nested mappings and lists with another value at a path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(content, list):
        return [placed(one, rest, value) if place == key else one for place, one in enumerate(content)]
    return {**content, key: placed(content.get(key), rest, value)}


def places(content, path=()):
    """The path of every value."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


# What is kept as it is, whatever it is: nobody reads more of it than whether it is equal.
FREE = ("identity", "changed", "environment")


@pytest.mark.parametrize("kind", WHOLE)
def test_a_value_of_any_other_type_anywhere_is_refused_or_harmless(tiny, outputs, kind):
    """Whatever can be read can be put into a table."""
    file, found = fresh_path("tiny", "plain", kind), experiment.load("tiny").select(["plain"])
    file.parent.mkdir(parents=True)
    refused = 0
    for path in places(WHOLE[kind]):
        for value in (None, "x", -3, 2.5, True, [], {}, [None], {"x": "y"}, ["x"], 10**400):
            file.write_text(json.dumps(placed(WHOLE[kind], path, value)))
            try:
                Record.read(file)
            except UsageError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 300 + len(str(file)), path
                assert str(file) in str(error) and "run the row again" in str(error)
                assert full("tiny", "plain", kind, "abc") is None
                continue
            try:
                flat_rows(found)
            except UsageError as error:
                assert "remove it and run the row again" in str(error), (path, value)  # another row's
    assert refused > 300


TEXTS = {
    "empty": "",
    "half": json.dumps(WHOLE["quality"])[:400],
    "a list": "[]",
    "null": "null",
    "nested deep": DEEP,
    "config nested deep": json.dumps(WHOLE["quality"]).replace('"steps": 20', f'"steps": {DEEP}'),
    "n_done NaN": json.dumps({**WHOLE["quality"], "n_done": float("nan")}),
    "n_done and n_asked text": json.dumps({**WHOLE["quality"], "n_done": "x", "n_asked": "x"}),
    "more than was asked for": json.dumps({**WHOLE["quality"], "n_done": 9}),
    "an integer of 5000 digits": json.dumps(WHOLE["quality"]).replace('"n_done": 4', f'"n_done": {"4" * 5000}'),
    "half a character": json.dumps({**WHOLE["quality"], "label": "\ud800"}),
    "curves of unequal length": json.dumps({**WHOLE["quality"], "curves": {"a": {"0": [1.0], "1": [1.0, 2.0]}}}),
    "curves without steps": json.dumps({**WHOLE["quality"], "curves": {"a": {}}}),
    "no time at all": json.dumps({**WHOLE["speed"], "latency": {**TIMES, "median_s": 0.0}}),
    "times without a median": json.dumps({**WHOLE["speed"], "latency": {}}),
    "schema 0": json.dumps({**WHOLE["quality"], "schema": 0}),
    "schema as text": json.dumps({**WHOLE["quality"], "schema": "1"}),
    "binary": b"\x00\xff\xfe" * 50,
    "Latin-1": json.dumps({**WHOLE["quality"], "label": "é"}, ensure_ascii=False).encode("latin-1"),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_record(outputs, text):
    file = fresh_path("tiny", "plain")
    file.parent.mkdir(parents=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match="run the row again") as error:
        Record.read(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(file))
    assert full("tiny", "plain", "quality", "abc") is None


def test_a_file_of_twenty_gigabytes_is_not_read(outputs):
    file = fresh_path("tiny", "plain")
    file.parent.mkdir(parents=True)
    with file.open("wb") as stream:
        stream.truncate(20 << 30)
    with pytest.raises(UsageError, match="too large"):
        Record.read(file)


def test_the_record_of_another_row_is_not_this_ones(outputs):
    record(row="cached").write(fresh_path("tiny", "plain"))
    assert full("tiny", "plain", "quality", "abc") is None
    with pytest.raises(UsageError, match="is the quality record of row 'cached' of tiny; remove it"):
        find("tiny", "plain")


@pytest.mark.parametrize("kind", ["fifo", "dangling link", "looping link"])
def test_what_is_no_file_is_no_record(outputs, tmp_path, kind):
    file = fresh_path("tiny", "plain")
    file.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "nowhere" if kind == "dangling link" else file)
    assert find("tiny", "plain") is None and full("tiny", "plain", "quality", "abc") is None
    record().write(file)
    assert full("tiny", "plain", "quality", "abc") == record() and not file.is_symlink()


def test_another_rows_damaged_record_does_not_hide_this_one(tiny, outputs):
    """The first row is what ratios refer to, asked for or not."""
    record(row="cached").write(fresh_path("tiny", "cached"))
    fresh_path("tiny", "plain").write_text("{")
    [row] = flat_rows(experiment.load("tiny").select(["cached"]))
    assert row["macs_g"] == 4
    with pytest.raises(UsageError, match=r"plain\.json is not a record"):
        flat_rows(experiment.load("tiny"))


def test_damages_are_mended_by_the_next_run(tiny, outputs, command, refused):
    """Record, values and list come back as they were; nothing that is whole is generated again."""
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=0", "steps=2", "reference_steps=3")
    command(*words)
    place = outputs / "records" / "tiny"
    expected = runs.but_for_times(runs.record(outputs, "plain"))
    values, states = (place / "plain.csv").read_bytes(), runs.states(outputs / "images")
    listed = outputs / "images" / expected["images"] / "manifest.csv"
    lines = listed.read_bytes()
    damages = (
        lambda: (place / "plain.json").write_text(DEEP),
        lambda: (place / "plain.csv").write_bytes(values[:-9]),
        lambda: listed.unlink(),
        lambda: listed.write_bytes(b"index,prompt,seed,sha256,file\r\nx,y,z,0,..\r\n1,2\r\n\xff"),
        lambda: listed.write_bytes(b"".join(lines.splitlines(keepends=True)[:2])),
    )
    for damage in damages:
        damage()
        code, _, err = command(*words)
        assert code == 0, err
        assert runs.but_for_times(runs.record(outputs, "plain")) == expected
        assert (place / "plain.csv").read_bytes() == values and listed.read_bytes() == lines
        assert runs.states(outputs / "images") == states
    assert "done already" in command(*words)[2]
    (place / "plain.csv").unlink()
    (place / "plain.csv").mkdir()
    assert f"{place / 'plain.csv'} is a folder, and a file must go there" in refused(*words)


def test_hints_of_all_kinds():
    assert typed.built(dict[str, list[float | None]], {"a": [1, 2.5, None]}) == {"a": [1, 2.5, None]}
    for hint, value in ((int, True), (float, True), (str, 1), (list[int], {}), (dict[str, int], []), (bool, 1)):
        with pytest.raises(typed.NotAsHinted):
            typed.built(hint, value)
    with pytest.raises(typed.NotAsHinted, match=r"has metrics\.a\.n that is not a whole number"):
        typed.built(Record, placed(WHOLE["quality"], ("metrics",), {"a": {**dataclasses.asdict(VALUE), "n": "x"}}))


VALUE = record().metrics["paired_psnr"]
