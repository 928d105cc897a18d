"""Times of earlier versions get today's id where they are of today's settings, and no number changes."""

import copy
import json

import pytest

from experiments.renew_times import COMMITTED, main, renewed
from postdiff.lab.config import experiment
from postdiff.lab.plan.plan import plan_rows


@pytest.fixture(scope="module")
def plan():
    return next(one for one in plan_rows(experiment.load("demo")) if one.name == "mixed_resolution")


@pytest.fixture
def record():
    return json.loads((COMMITTED / "demo" / "mixed_resolution.speed.json").read_text())


def test_options_that_came_later_are_spelt_out(plan, record):
    old = copy.deepcopy(record)
    [methods] = old["config"]["methods"]
    assert methods["mixed_resolution"].pop("x0") == "guided"
    found = renewed({**old, "run_id": "old"}, plan)
    assert found == record and found["run_id"] == plan.speed_id
    assert renewed(found, plan) == found


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [("config", "steps", 5), ("config", "methods", []), (None, "checkpoint", "abc"), ("bench", "batch_size", 2)],
)
def test_times_of_other_settings_are_refused(plan, record, place, name, value):
    inside = {None: record, "config": record["config"], "bench": record["config"]["bench"]}[place]
    inside[name] = value
    with pytest.raises(ValueError, match=f"was timed with other {place if place == 'bench' else name}"):
        renewed(record, plan)


def test_committed_times_of_the_demo_are_of_today(tmp_path, capsys):
    folder = tmp_path / "demo"
    folder.mkdir()
    for file in (COMMITTED / "demo").glob("*.speed.json"):
        (folder / file.name).write_text(file.read_text())
    (folder / "deepcache.speed.json").write_text(
        (folder / "deepcache.speed.json").read_text().replace('"interval": 2', '"interval": 3')
    )
    assert main(["demo", "--records", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "deepcache.speed.json: left as it is" in said.err and said.err.count("left as") == 1
