"""EasyCache: the three rules of its name against straight loops, in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import EasyCache
from tests.support.loops import in_double, run_loop
from tests.support.tiny import build
from tests.support.work import watched

RULES = {
    "authors": {"threshold": 0.3, "warmup": 2},
    "comfyui": {"threshold": 0.5, "warmup": 0.15, "last": 0.05, "distance": "computed", "stride": 2},
    "ucache": {"threshold": 2.0, "warmup": 0.15, "last": 0.05, "distance": "computed", "scale": "ucache"},
    "output": {"threshold": 0.6, "warmup": 2, "replay": "output", "most": 1},
    "in a line": {"threshold": 0.3, "warmup": 2, "replay": "linear", "most": 2},
}


def straight_loop(network, solve, x, steps, rule):
    """One image: (its latents at the end, the steps left out). `network(x, i)` gives all branches, cond first."""
    computed_distance, ucache = rule.get("distance") == "computed", rule.get("scale") == "ucache"
    stride, most, skipped = rule.get("stride", 1), rule.get("most", steps), []
    share = {name: rule.get(name, other) for name, other in (("warmup", 0.2), ("last", 1))}
    first, last = (int(s * steps + 0.5) if isinstance(s, float) else s for s in share.values())
    gain = usual = x_c = y_c = x_before = residuals = line = step_c = None
    total, row, count = 0.0, 0, 0

    def mean(tensor, every=stride):
        return tensor[..., ::every, ::every].abs().mean().item()

    for i in range(steps):
        skip = False
        if first <= i < steps - last and gain is not None:
            scale = mean(y_c[0], 1)
            if ucache:
                scale = (max(scale, 1e-6) * max(1.6 * usual, 1e-6)) ** 0.5 / (1 + 0.5 * row)
            total += gain * mean(x - (x_c if computed_distance else x_before)) / scale
            part = count / steps if ucache else 0.5
            limit = rule["threshold"] * (0.5 if part < 0.2 else 1.5 if part > 0.8 else 1.0)
            skip = total < limit and row < most
        x_before = x
        if skip:
            row += 1
            skipped.append(i)
            now, slope = line
            y = {
                "residual": [x + residual for residual in residuals],
                "output": y_c,
                "linear": [y + (i - now) * change for y, change in zip(y_c, slope, strict=True)],
            }[rule.get("replay", "residual")]
        else:
            y, total, row = network(x, i), 0.0, 0
            residuals = [branch - x for branch in y]
            slope = [0.0] * len(y) if y_c is None else [(y - z) / (i - step_c) for y, z in zip(y, y_c, strict=True)]
            line, step_c = (i, slope), i
            if not computed_distance or i >= first:
                count += first <= i < steps - last
                if x_c is not None:
                    change = mean(y[0] - y_c[0])
                    gain = change / mean(x - x_c)
                    usual = change if usual is None else 0.8 * usual + 0.2 * change
                x_c, y_c = x, y
            else:
                x_c = y_c = None
        x = solve(y, i, x)
    return x, skipped


@pytest.mark.parametrize("family", ["sd", "cogview4"])
@pytest.mark.parametrize("rule", RULES)
def test_equals_a_straight_loop(rule, family):
    """Every image for itself, whether guidance goes in one call or in two."""
    case, method, ids = in_double(family), EasyCache(**RULES[rule]), [0, 1, 2]
    with watched(case.pipe, getattr(case.pipe, "unet", None) or case.pipe.transformer) as work:
        found = case.call(accelerate(case.pipe, [method]), ids)
    rows = [max(rows[step] for rows in work.rows.values()) for step in range(work.step)]
    skips = []
    for place, i in enumerate(ids):
        expected, skipped = run_loop(case, i, straight_loop, RULES[rule])
        torch.testing.assert_close(found[place : place + 1], expected, rtol=1e-12, atol=1e-12)
        alone = case.call(accelerate(case.pipe, [method]), [i])
        torch.testing.assert_close(alone, expected, rtol=1e-12, atol=1e-12)
        skips.append(skipped)
    assert any(skips) and max(map(len, skips)) < work.step - 2, "choose another threshold"
    each = max(rows) // len(ids)
    assert rows == [each * sum(step not in skipped for skipped in skips) for step in range(work.step)]


@pytest.mark.parametrize(("threshold", "neighbour", "computed"), [(0.05, 2, 1), (0.2, 9, 3)])
def test_even_changes_are_left_out_longer_at_the_neighbours_distance(threshold, neighbour, computed):
    """For a change of q a step n steps are left out while n q < tau, or n (n + 1) / 2 q < tau; here q = 0.02."""
    one = torch.ones(1, 1, 2, 2, dtype=torch.float64)

    def longest(distance):
        method, past, found = EasyCache(threshold=threshold, distance=distance), SimpleNamespace(), 0
        [replay], method.window = method.replays(nn.Identity()), range(99)
        for step in method.window:
            state, x = SimpleNamespace(index=step, steps=99), one * (1 + 0.0201 * step)
            number = replay.rule.measure(past, x, state)
            if number is None:
                replay.rule.note(past, x, x, one * (1 if step else 1 - 0.0201), state)
            elif replay.rule.due(past, float(number), state):
                return found
            else:
                found += 1

    assert (longest("neighbour"), longest("computed")) == (neighbour, computed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold=-0.1 must be 0 or more"),
        ({"threshold": float("nan")}, "threshold=nan must be 0 or more"),
        ({"warmup": -1}, "warmup=-1 must be a step"),
        ({"warmup": 1.5}, "warmup=1.5 must be a step"),
        ({"last": float("nan")}, "last=nan must be a step"),
        ({"stride": 0}, "stride=0 must be 1 or more"),
        ({"most": -1}, "most=-1 must be 0 or more, or null"),
        ({"distance": "neighbor"}, "unknown distance of EasyCache 'neighbor'; did you mean 'neighbour'"),
        ({"threshold": "low"}, "threshold='low' must be float"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(UsageError, match=message) as error:
        EasyCache(**options)
    assert "\n" not in str(error.value)


def test_a_window_beyond_the_run_is_told():
    case = build("sd", smallest=True)
    with pytest.raises(UsageError, match="EasyCache: warmup=9 is outside this run of 6 steps; use 0..6"):
        case.call(accelerate(case.pipe, [EasyCache(warmup=9)]))
