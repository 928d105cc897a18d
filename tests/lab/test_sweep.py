"""Rows written once for many values."""

import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import expand


def test_every_combination_becomes_a_row_the_last_name_fastest():
    row = {"over": {"steps": [8, 20], "low": [0.2, 0.5]}, "label": "{steps} steps, s = {low}", "steps": "{steps}"}
    row["methods"] = [{"mixed_resolution": {"switch": "{low}"}}]
    found = expand({"first": {"steps": 3}, "t{steps}_s{low}": row, "last": None}, "file")
    assert list(found) == ["first", "t8_s0.2", "t8_s0.5", "t20_s0.2", "t20_s0.5", "last"]
    assert found["t20_s0.5"] == {
        "label": "20 steps, s = 0.5",
        "steps": 20,
        "methods": [{"mixed_resolution": {"switch": 0.5}}],
    }
    assert found["first"] == {"steps": 3} and found["last"] is None


def test_a_value_keeps_its_type_when_it_stands_alone():
    made = expand({"{a}": {"over": {"a": [True, [1, 2], "x"]}, "value": "{a}", "text": "is {a}"}}, "file")
    assert [row["value"] for row in made.values()] == [True, [1, 2], "x"]
    assert made["[1, 2]"]["text"] == "is [1, 2]"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"t{step}": {"over": {"steps": [1]}}}, "unknown name in braces 'step'; did you mean 'steps'"),
        ({"t{a}": {"over": {"a": [1], "b": [1, 2]}}}, "two rows are named 't1'"),
        ({"t1": {}, "t{a}": {"over": {"a": [1]}}}, "two rows are named 't1'"),
        ({"t{a}": {"over": {"a": 3}}}, "must be a mapping of names to lists"),
        ({"t{a}": {"over": {"a": []}}}, "must be a mapping of names to lists"),
        ({"t{a}": {"over": [1, 2]}}, "must be a mapping of names to lists"),
    ],
)
def test_mistakes_are_reported(rows, message):
    with pytest.raises(UsageError, match=message):
        expand(rows, "file")
