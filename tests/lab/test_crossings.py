"""Where two curves cross, on curves made by hand."""

import numpy as np
import pytest

from postdiff.lab.analysis.crossings import Settings, compare, crossings, drawn, front

COSTS = np.array([0.1, 0.2, 0.4, 0.8])


def line(slope, at=0.4, costs=COSTS):
    """Quality that rises with the logarithm of the cost, and is 0 at one."""
    return slope * np.log(costs / at)


def test_a_front_is_what_nothing_as_cheap_beats():
    costs = np.array([0.3, 0.1, 0.2, 0.2, 0.4])
    assert front(costs, np.array([5.0, 1.0, 4.0, 3.0, 5.0])).tolist() == [1, 2, 0]
    assert front(costs, np.array([1.0, 9.0, 1.0, 1.0, 1.0])).tolist() == [1]


@pytest.mark.parametrize("at", [0.15, 0.25, 0.5])
def test_a_known_crossing_is_found(at):
    """Between settings of both, on different costs."""
    other = np.array([0.12, 0.3, 0.7])
    found, (knots, ahead) = crossings((COSTS, line(2, at)), (other, line(1, at, other)))
    assert found == [(pytest.approx(at), True)], "the flatter one is ahead below"
    assert np.interp(np.log(0.3), knots, ahead) == pytest.approx(-np.log(0.3 / at))
    [(cost, below)], _ = crossings((other, line(1, at, other)), (COSTS, line(2, at)))
    assert cost == pytest.approx(at) and not below


def test_no_crossing_is_said_to_be_none():
    assert crossings((COSTS, line(1)), (COSTS, line(1) + 0.1))[0] == []
    assert crossings((COSTS, line(1)), (COSTS, line(1)))[0] == [], "the same curve"
    touching = np.array([0.5, 0.0, 0.5, 1.0])
    assert crossings((COSTS, np.zeros(4)), (COSTS, np.maximum.accumulate(touching)))[0] == []
    found, (knots, _) = crossings((COSTS[:2], line(1)[:2]), (COSTS[2:], line(1)[2:]))
    assert found == [] and not len(knots), "no budget in common"


def test_a_crossing_at_a_setting_and_two_crossings():
    one, other = np.array([0.0, 1.0, 2.0, 3.0]), np.array([-1.0, 1.0, 2.0, 4.0])
    [(cost, below)], _ = crossings((COSTS, one), (COSTS, other))
    assert 0.2 <= cost <= 0.4 and not below
    found, _ = crossings((COSTS, one), (COSTS, np.array([-1.0, 2.0, 2.0, 2.0])))
    assert found == [(pytest.approx(0.2 * 0.5**0.5), False), (pytest.approx(0.4), True)]


def test_beyond_the_best_setting_quality_stays():
    """A dearer and worse setting is never chosen."""
    other = np.array([0.0, 2.5, 1.0, 1.0])
    found, _ = crossings((COSTS, np.array([1.0, 2.0, 3.0, 4.0])), (COSTS, other))
    assert [below for _, below in found] == [False, True] and found[1][0] == pytest.approx(0.2 * 2**0.5)


def family(slope, at, noise, generator, prompts):
    """Prompts differ by far more than settings do; the difference has noise of its own."""
    hard = np.random.default_rng(prompts).normal(0, 5, prompts)
    return Settings(COSTS, line(slope, at)[:, None] + hard + generator.normal(0, noise, (len(COSTS), prompts)))


def test_intervals_are_of_pairs():
    generator = np.random.default_rng(0)
    found = compare(family(2, 0.3, 0.3, generator, 64), family(1, 0.3, 0.3, generator, 64), drawn(64, 500), [0.2, 0.9])
    [crossing], [gain] = found.crossings, found.gains
    assert crossing.below and crossing.found == 1 and crossing.low < 0.3 < crossing.high < 1.3 * crossing.low
    assert gain.low < np.log(1.5) < gain.high < gain.low + 0.4, "0.9 is beyond all settings"
    assert found.ahead == pytest.approx(np.log(3) / np.log(8), abs=0.05)


def test_distances_are_compared_by_their_logarithms():
    """Distances that fall by factors: fewer steps by 4 with every doubling of the cost, the other by 2."""
    one, other = (Settings(COSTS, (0.3 / COSTS)[:, None] ** power * np.linspace(0.5, 1.5, 9)) for power in (2, 1))
    found = compare(one, other, drawn(9, 50), [0.1, 0.2], distance=True)
    [crossing] = found.crossings
    assert crossing.below and [crossing.cost, crossing.low, crossing.high] == [pytest.approx(0.3)] * 3
    assert [gain.mean for gain in found.gains] == [pytest.approx(3), pytest.approx(1.5)], "times smaller"


def test_each_of_two_crossings_keeps_its_own_interval():
    """The last one is in some resamples only; the first one, of the same direction, does not stand in for it."""
    gaps = np.array([1.0, -1.0, 1.0, -0.05])[:, None] + np.zeros(40)
    gaps[3] += np.linspace(-0.5, 0.5, 40)
    steps = np.array([0.0, 10.0, 20.0, 30.0])[:, None] + np.zeros(40)
    first, second, third = compare(Settings(COSTS, steps), Settings(COSTS, steps + gaps), drawn(40, 300)).crossings
    assert [each.below for each in (first, second, third)] == [True, False, True]
    assert first.found == second.found == 1
    assert first.low == pytest.approx(first.high), "nothing there differs between prompts"
    assert 0.5 < third.found < 1 and 0.7 < third.low < third.high <= 0.8


def test_intervals_cover():
    generator, inside = np.random.default_rng(1), 0
    weights = drawn(48, 120)
    for _ in range(60):
        one, other = (family(slope, 0.3, 1.0, generator, 48) for slope in (2, 1))
        found = compare(one, other, weights).crossings
        inside += any(each.below and each.low <= 0.3 <= each.high for each in found)
    assert 53 <= inside <= 60, "95 % of 60 are 57"


def test_a_crossing_that_few_resamples_have_is_told():
    generator = np.random.default_rng(3)
    found = compare(family(1, 0.3, 2.0, generator, 16), family(1, 0.3, 2.0, generator, 16), drawn(16, 300))
    assert all(0 < each.found < 1 for each in found.crossings) and found.crossings
    apart = compare(family(1, 0.3, 0.1, generator, 16), family(1, 0.1, 0.1, generator, 16), drawn(16, 300))
    assert not apart.crossings and apart.ahead == 1
