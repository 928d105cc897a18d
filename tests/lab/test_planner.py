"""The parts of a plan that need no model: budgets, steps within them, races over recorded settings, certainty."""

import itertools
import json
import random

import numpy as np
import pytest

from postdiff.engine.errors import UsageError
from postdiff.lab.planner import certainty, race, trials
from postdiff.lab.planner.budget import Budget
from postdiff.lab.planner.cost import most_steps
from postdiff.lab.planner.race import Contender, Pace
from postdiff.lab.planner.space import Setting


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0.4x", "share", 0.4),
        ("1 X", "share", 1.0),
        ("12 TMACs", "macs", 12e12),
        ("3.5GMACs", "macs", 3.5e9),
        ("1.5 s", "seconds", 1.5),
        ("800ms", "seconds", 0.8),
    ],
)
def test_budgets_are_read(text, kind, value):
    found = Budget.parse(text)
    assert (found.kind, found.value) == (kind, pytest.approx(value))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("0.4", "has no unit"),
        ("", "no number with a unit"),
        ("some", "no number with a unit"),
        ("0x", "leaves nothing"),
        ("-1x", "leaves nothing"),
        ("1e999 s", "leaves nothing"),
        ("1.2x", "more than the full run"),
        ("3 hours", "unknown unit 'hours'"),
    ],
)
def test_what_is_no_budget_is_refused(text, cause):
    with pytest.raises(UsageError, match=cause):
        Budget.parse(text)


def test_a_budget_beyond_the_full_run_is_refused():
    budget = Budget.parse("20 GMACs")
    assert budget.limit(25e9) == 20e9
    with pytest.raises(UsageError, match="more than the full run, which is 15 GMACs"):
        budget.limit(15e9)


def test_a_share_of_the_steps_leaves_that_many():
    for steps in range(1, 51):
        for whole in (869040128, 1000000007):
            share = Budget.parse(f"{round(steps / 50, 2)}x")
            assert steps * whole <= share.limit(50.0 * whole) < (steps + 0.001) * whole


def test_the_most_steps_within_a_limit_are_found():
    """Against trying all, for costs that rise in any manner; few of them are looked at."""
    chance = random.Random(0)
    for _ in range(300):
        steps = sorted(chance.sample(range(1, 60), chance.randint(1, 20)))
        costs = dict(zip(steps, itertools.accumulate(chance.randint(1, 50) for _ in steps), strict=True))
        limit = chance.uniform(0, 1.2 * costs[steps[-1]])
        asked = []

        def cost(setting, costs=costs, asked=asked):
            asked.append(setting.steps)
            return costs[setting.steps]

        found = most_steps(Setting(steps[-1], {}, {}, []), steps, limit, cost)
        within = [own for own in steps if costs[own] <= limit]
        assert (found and found[0].steps) == (within[-1] if within else None)
        assert len(set(asked)) <= 8 and (found is None or found[1] == costs[found[0].steps])


def test_a_setting_that_does_not_fit_has_no_steps():
    assert most_steps(Setting(8, {}, {}, []), [4, 8], 1e9, lambda setting: None) is None


def combinations(choices=4, kinds=3):
    """Settings of one choice each of several kinds."""
    named = [["", *(f"{kind}{number}" for number in range(1, choices))] for kind in "abc"[:kinds]]
    return [Setting(10, {name[0]: name for name in names if name}, {}, []) for names in itertools.product(*named)]


def world(seed, prompts=48, noise=0.3):
    """What each choice does, and how prompts differ: {name: losses}, not quite a sum."""
    chance = np.random.default_rng(seed)
    effect = {}
    hard = chance.uniform(0.5, 1.5, prompts)
    table = {}
    for setting in combinations():
        for choice in setting.choices.values():
            effect.setdefault(choice, chance.normal(0, 0.25))
        level = np.exp(sum(effect[choice] for choice in setting.choices.values()) + chance.normal(0, 0.03))
        table[setting.name] = level * hard * np.exp(chance.normal(0, noise, prompts))
    return table


def test_a_race_finds_what_is_best_or_near_it():
    """Of 64 settings a race measures 25, and all prompts of three; it chooses well in a world of chance."""
    regrets = []
    for seed in range(30):
        table, measured = world(seed), {}

        def measure(contenders, count, table=table, measured=measured):
            measured.update({each.name: count for each in contenders})
            return {each.name: table[each.name][:count] for each in contenders}

        found = race.run(combinations(), lambda setting: Contender(setting, 1.0), measure, Pace())
        chosen = found.last[0].name
        best = min(float(own.mean()) for own in table.values())
        regrets.append(float(table[chosen].mean()) / best - 1)
        assert len(measured) == 10 + 15 and sum(count == 48 for count in measured.values()) <= 4
        assert any(each.setting.plain for each in found.last)
    assert np.mean(regrets) < 0.02 and np.quantile(regrets, 0.9) < 0.08


def test_nothing_beyond_the_budget_is_measured():
    seen = []

    def measure(contenders, count):
        seen.extend(each.name for each in contenders)
        return {each.name: np.ones(count) for each in contenders}

    def fit(setting):
        return Contender(setting, 1.0) if "a1" in setting.choices.values() else None

    race.run(combinations(), fit, measure, Pace())
    assert seen and all("a1" in name for name in seen)
    assert not race.run(combinations(), lambda setting: None, measure, Pace()).rungs


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """Of means over all prompts, and over as many others."""
    chance = np.random.default_rng(5)
    own, other = 0, 0
    for _ in range(300):
        values = chance.gamma(2.0, 1.0, 48)
        own += certainty.mean(values).holds(2.0)
        other += certainty.elsewhere(values, 48).holds(chance.gamma(2.0, 1.0, 48).mean())
    assert 270 <= own <= 297 and 270 <= other <= 297


def test_ties_are_called_ties():
    chance = np.random.default_rng(6)
    hard = chance.uniform(0.1, 2.0, 48)
    same, worse = hard + chance.normal(0, 0.05, 48), hard + 0.1 + chance.normal(0, 0.05, 48)
    assert certainty.tied(same, hard) and not certainty.tied(worse, hard)
    # Prompts differ far more than settings do, and a comparison that passed over that would see nothing.
    assert certainty.mean(hard).holds(float(worse.mean()))


def test_an_order_carries_the_better_the_more_prompts():
    table = dict(list(world(3).items())[:20])
    found = certainty.carry(table, [4, 16, 48])
    assert found[0].correlation.value < found[1].correlation.value < found[2].correlation.value <= 1
    assert found[0].alike < found[2].alike <= 1
    apart = {str(level): level + np.arange(8) / 100 for level in range(5)}
    assert [(each.alike, each.correlation.value) for each in certainty.carry(apart, [4])] == [(1.0, pytest.approx(1))]


def test_a_damaged_calibration_is_one_line(tmp_path):
    whole = {"schema": 1, "settings": {"abc": {"setting": "x", "count": 2, "macs": 1, "values": {"m": [1.0, 2.0]}}}}
    file = tmp_path / "x.json"
    file.write_text(json.dumps(whole))
    assert trials.read(file)["abc"][2].macs == 1
    for text in ("", "{", "[]", json.dumps({**whole, "schema": 2}), json.dumps(whole).replace("2.0", "NaN")):
        file.write_text(text)
        with pytest.raises(UsageError, match="is no whole calibration"):
            trials.read(file)
    file.write_text(json.dumps(whole).replace("[1.0, 2.0]", "[1.0]"))
    with pytest.raises(UsageError, match="is no whole calibration"):
        trials.read(file)
