"""The program behind `make second-device`, with the CPU as the second device and nothing to settle."""

import importlib
import json
from dataclasses import replace

import pytest
import torch

from postdiff.presets import preset

program = importlib.import_module("experiments.second_device")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(cases, settle)`: in a folder of its own, with the table beside the record."""
    monkeypatch.setattr(program, "RECORD", tmp_path / "record.json")

    def of(cases, settle=lambda: None):
        return program.run(cases, lambda family: program.Pair(family, "cpu", settle), "versions", tmp_path / "table.md")

    return of


def test_the_bare_pipeline_comes_first():
    assert program.plan(["tome"], ["sd", "dit"]) == [
        ("sd", "(none)"),
        ("sd", "tome"),
        ("dit", "(none)"),
        ("dit", "tome"),
    ]


def test_differences_are_relative_to_the_largest_value():
    assert program.relative(torch.tensor([1.0, 4.5]), torch.tensor([1.0, -4.0])) == 8.5 / 4
    assert program.relative(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 1.0])) == float("inf")


def test_a_run_writes_after_every_case_and_is_taken_up(run, tmp_path):
    cases = [("sd", "(none)"), ("sd", "deepcache"), ("sd", "tea_cache")]
    found = run(cases[:2])
    assert [case.difference for case in found] == [0.0, 0.0]
    record = json.loads((tmp_path / "record.json").read_text())
    record[0]["seconds"], record[1]["basis"] = -1.0, "other code"
    (tmp_path / "record.json").write_text(json.dumps(record))
    settled = []
    taken_up = run(cases, lambda: settled.append(1))
    assert taken_up[0].seconds == -1.0 and taken_up[1] == replace(found[1], seconds=taken_up[1].seconds) and settled
    assert taken_up[2].difference is None and "refused: TeaCache needs a transformer" in taken_up[2].verdict
    table = (tmp_path / "table.md").read_text()
    assert "| deepcache | StableDiffusionPipeline | 0.0e+00 | alike |" in table
    assert "| tea_cache | StableDiffusionPipeline |  | refused: TeaCache needs" in table


def test_what_differs_or_fails_is_reported(monkeypatch):
    pair = program.Pair("sd", "cpu", lambda: None)
    monkeypatch.setattr(pair.there, "call", lambda run: torch.zeros(2, 4, 8, 8))
    assert pair.compare("deepcache", "").verdict == "not alike"

    def fails(run):
        raise RuntimeError("Expected an XLA tensor\nand more")

    monkeypatch.setattr(pair.there, "call", fails)
    assert pair.compare("deepcache", "").verdict == "fails: Expected an XLA tensor"


def test_the_committed_table_has_presets_that_there_are():
    rows = [line.split(" | ")[0].removeprefix("| ") for line in program.TABLE.read_text().splitlines()[10:]]
    assert {preset(name).label for name in rows if name != "(none)"}
