"""Records: written whole or not at all, read back equal, and refused when they are something else."""

import dataclasses
import json

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.records.record import SCHEMA, Record, Value, find, fresh_path


def record(**changes):
    value = Value(31.5, 0.2, {"0": 31.4, "1": 31.6}, 4, True, {"cap": 100.0})
    made = Record(
        kind="quality",
        experiment="tiny",
        row="plain",
        label="Plain",
        run_id="abc",
        config={"steps": 20},
        checkpoint="def",
        seeds=[0, 1],
        prompts="123",
        references="456",
        n_asked=4,
        n_done=4,
        device="a CPU, 2 threads",
        dtype="float32",
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
        git={"commit": "0123", "dirty": False},
        versions={"torch": "2"},
        metrics={"paired_psnr": value},
        macs={"denoiser": {"dense": 4_000_000_000, "fvcore": 5, "all": 6}},
        counts={"network calls": 20},
    )
    return dataclasses.replace(made, **changes)


def test_round_trip(tmp_path):
    file = tmp_path / "deep" / "plain.json"
    record().write(file)
    assert Record.read(file) == record()
    assert [found.name for found in file.parent.iterdir()] == ["plain.json"], "a temporary file was left"


def test_what_could_not_be_computed_is_null(tmp_path):
    file = tmp_path / "plain.json"
    record(metrics={"paired_psnr": Value(float("nan"), None, {"0": float("inf")}, 4, True, {})}).write(file)
    found = Record.read(file).metrics["paired_psnr"]
    assert found.value is None and found.per_seed == {"0": None}
    assert "NaN" not in file.read_text()


def test_a_failed_write_leaves_the_old_record(tmp_path, monkeypatch):
    file = tmp_path / "plain.json"
    record().write(file)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        record(label="New").write(file)
    monkeypatch.undo()
    assert Record.read(file).label == "Plain"
    assert [found.name for found in tmp_path.iterdir()] == ["plain.json"]


def test_another_schema_version_is_refused(tmp_path):
    file = tmp_path / "plain.json"
    record(schema=SCHEMA + 1).write(file)
    with pytest.raises(UsageError, match="schema version 2, this PostDiff reads 1"):
        Record.read(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "metrics": {"a": 3}}', "{"])
def test_something_else_is_refused(tmp_path, text):
    file = tmp_path / "plain.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="record"):
        Record.read(file)


def test_a_record_with_an_unknown_key_is_refused(tmp_path):
    file = tmp_path / "plain.json"
    record().write(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "red"}))
    with pytest.raises(UsageError, match="not a whole record"):
        Record.read(file)


def test_fresh_records_stand_before_committed_ones(outputs, tmp_path, monkeypatch):
    committed = tmp_path / "committed"
    monkeypatch.setattr(folders, "committed_records", lambda: committed)
    assert find("tiny", "plain") is None
    record(label="Old").write(committed / "tiny" / "plain.json")
    assert find("tiny", "plain").label == "Old"
    record(label="New").write(fresh_path("tiny", "plain"))
    assert find("tiny", "plain").label == "New"


def test_partial_records_know_it():
    assert record().full and not record(n_done=3).full
