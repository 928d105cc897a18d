"""Predicted times beside measured ones: the program, on numbers made up and on two settings."""

import json

import pytest

from experiments import predicted_times
from postdiff.engine.errors import UsageError
from postdiff.lab.planner import space


def test_a_draw_is_spread_over_choices_and_steps():
    whole = space.read("unet").up_to(20)
    drawn = predicted_times.drawn(whole, 36, 0, lambda setting: "forecast" not in setting.label)
    assert drawn == predicted_times.drawn(whole, 36, 0, lambda setting: "forecast" not in setting.label)
    assert len({tuple(each.choices.items()) for each in drawn}) == 36, "no combination twice"
    steps = [each.steps for each in drawn]
    assert {steps.count(number) for number in range(3, 21)} == {2}, "every number of steps as often"
    assert not any("forecast" in each.label for each in drawn)
    with pytest.raises(UsageError, match="only 0 settings of the space fit the model"):
        predicted_times.drawn(whole, 3, 0, lambda setting: False)


def test_errors_are_of_medians_and_the_worst_keeps_its_sign():
    turns = [(1.0, 2.0), (2.0, 8.0), (9.0, 4.0)]
    row = predicted_times._row("a", 1.7, turns, 1.25)
    assert (row["measured_s"], row["passed_s"], row["least_s"], row["most_s"]) == (2.0, 4.0, 1.0, 9.0)
    assert row["error"] == pytest.approx(-0.15) and row["error_at_pace"] == pytest.approx(0.0625)
    good = {"setting": "b", "measured_s": 1.0, "error": 0.1, "error_at_pace": 0.3}
    found = predicted_times.summary([row, good])
    assert [each["setting"] for each in found["rows"]] == ["b", "a"], "by time"
    assert found["summary"]["error"] == {"within 10 %": 0.5, "median": pytest.approx(0.125), "worst": row["error"]}
    assert found["summary"]["error_at_pace"]["worst"] == 0.3


@pytest.mark.slow
def test_settings_are_predicted_and_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    assert predicted_times.main(["--settings", "2", "--rounds", "2", "--space", "unet_small"]) == 0
    found = json.loads((tmp_path / "records" / "plans" / "times" / "emoji.json").read_text())
    assert len(found["rows"]) == 2 and found["clock"] in ("process", "wall") and found["git"]
    for row in found["rows"]:
        assert row["least_s"] <= row["measured_s"] <= row["most_s"] and 0.3 < row["predicted_s"] / row["measured_s"] < 3
    assert not list((tmp_path / "plans").rglob("times/*")), "the table was one of its own"
