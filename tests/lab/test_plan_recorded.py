"""A plan of the shipped model from its committed records: quick, near the best recorded setting, true of other prompts.

`python experiments/calibrate_plan.py` made the records.
"""

import json
import random

import numpy as np
import pytest
import yaml

from postdiff.lab import run
from postdiff.lab.config.experiment import load
from postdiff.lab.files import folders
from postdiff.lab.planner import certainty, race, space, trials
from postdiff.lab.planner.asked import PlanOptions
from postdiff.lab.planner.cost import most_steps
from postdiff.lab.planner.planning import Planning
from postdiff.lab.planner.race import Contender, Pace
from postdiff.zoo import EMOJI

RECORDED = folders.committed_records() / "plans" / "emoji.json"
PROMPTS = 32  # of every setting of the coarse grid
OTHERS = 24  # prompts that no plan has seen
pytestmark = pytest.mark.skipif(not RECORDED.is_file(), reason="outside a checkout there are no records")


@pytest.fixture(scope="module")
def grid():
    """The coarse grid: its space, and {name: (MACs, loss of each prompt)}."""
    by_name = {name: outcome for name, count, outcome in trials.read(RECORDED).values() if count >= PROMPTS}
    found = space.read("unet_small")
    names = [each.at(steps).name for each in found.combinations for steps in found.steps]
    first = {name: by_name[name].first(PROMPTS) for name in names}
    return found, {name: (outcome.macs, outcome.values["paired_lpips"]) for name, outcome in first.items()}


def test_regret_on_recorded_settings(grid, record_property):
    """For 60 random budgets, the choice against the best recorded setting within each, on all recorded prompts.

    Of 18 combinations the race measures 15 at most; fewer waves than three were seen to miss the best.
    """
    found, table = grid
    full = table["steps_20"][0]
    regrets = []
    for share in random.Random(0).choices(range(150, 1000), k=60):
        limit = share / 1000 * full

        def fit(combination, limit=limit):
            fitted = most_steps(combination, list(found.steps), limit, lambda setting: table[setting.name][0])
            return None if fitted is None else Contender(*fitted)

        def measure(contenders, count):
            return {each.name: table[each.name][1][:count] for each in contenders}

        ended = race.run(found.combinations, fit, measure, Pace((8, 16, PROMPTS), wave=3))
        best = min(float(losses.mean()) for macs, losses in table.values() if macs <= limit)
        regrets.append(float(table[ended.last[0].name][1].mean()) / best - 1 if best else 0.0)
    record_property("regret", f"mean {np.mean(regrets):.4f}, worst {max(regrets):.4f}")
    assert max(regrets) <= 0.02, sorted(regrets)[-5:]


def test_an_order_on_few_prompts_carries(grid):
    """Ranks of all 54 settings by 8, 16 and 32 prompts against those by 32."""
    _, table = grid
    found = certainty.carry({name: losses for name, (_, losses) in table.items()}, [8, 16, PROMPTS])
    assert found[0].correlation.value > 0.9 and found[-1].correlation.low > 0.97


@pytest.fixture
def planned(outputs):
    """The answer for 0.4x, with nothing in the outputs folder."""
    planning = Planning(PlanOptions("emoji", "0.4x"), {}, print)
    return planning, planning.answer()


@pytest.mark.slow
def test_a_plan_from_committed_records_generates_nothing(planned, outputs):
    planning, answer = planned
    assert not planning.trials.made and not list(outputs.rglob("*.png"))
    assert answer.race.rungs[-1].count == 48 and answer.race.last[0].cost <= 0.4 * answer.full
    fewer = next(each for each in answer.race.last if each.setting.plain)
    losses = answer.race.rungs[-1].losses
    if "better than plain fewer steps" in answer.sentence():
        assert certainty.difference(losses[fewer.name], losses[answer.chosen.name]).low > 0
    else:
        assert "do not tell it from plain fewer steps" in answer.sentence() or answer.chosen.plain


@pytest.mark.slow
def test_other_prompts_are_where_the_plan_says(planned, outputs, tmp_path):
    """The chosen setting on prompts that it was not chosen by, against where their mean was said to be."""
    answer = planned[1]
    lines = [json.loads(line) for line in (EMOJI / "prompts.jsonl").read_text().splitlines()]
    others = random.Random(0).sample(lines[48:], OTHERS)
    prompts, file = tmp_path / "others.jsonl", outputs / "held_out.yaml"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in others))
    content = yaml.safe_load(answer.yaml())
    content["base"] |= {"data": str(prompts), "batch_size": 8, "bench": {"repeats": 0}}
    file.write_text(yaml.safe_dump({**content, "rows": {"planned": content["rows"]["planned"]}}))
    run.run(load(str(file)), print, timed=False, grids=False)
    record = json.loads((outputs / "records" / "held_out" / "planned.json").read_text())
    expected = certainty.elsewhere(answer.values[answer.chosen.name]["paired_lpips"], OTHERS)
    assert expected.holds(record["metrics"]["paired_lpips"]["value"]), (expected, record["metrics"]["paired_lpips"])
