"""Realised over ideal speed-up: the program, on a small structure."""

import json

import pytest

from experiments import realised


def test_every_method_leaves_calls_out_and_is_set_beside_the_bare_pipeline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(realised, "STRUCTURE", "emoji")
    assert realised.main(["--size", "64", "--steps", "8", "--rounds", "1"]) == 0
    record = json.loads((tmp_path / "records" / "realised" / "emoji_64px_8_steps.json").read_text())
    rows, shown = record["rows"], capsys.readouterr().out
    assert list(rows) == ["bare", *realised.ROWS] and rows["bare"]["calls"] == 8
    for row in realised.ROWS:
        assert 2 <= rows[row]["calls"] < 8
        assert rows[row]["ideal"] == 8 / rows[row]["calls"]
        assert f"{row} " in shown


def test_the_ratio_is_of_medians():
    def run(calls, seconds):
        return {"calls": calls, "seconds": seconds, "wall": 2 * seconds}

    runs = {"bare": [run(4, 4.0), run(4, 4.0)], "step_mask": [run(2, 1.0), run(2, 4.0), run(2, 2.5)]}
    found = realised.table(runs)["step_mask"]
    assert (found["ideal"], found["realised"]) == (2.0, 1.6)
    assert found["realised / ideal"] == found["realised / ideal, wall"] == pytest.approx(0.8)
