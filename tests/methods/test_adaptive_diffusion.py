"""AdaptiveDiffusion against a straight loop in float64."""

from functools import partial

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import AdaptiveDiffusion
from tests.support.loops import in_double, run_loop
from tests.support.tiny import build
from tests.support.work import watched

SETTINGS = {
    "default bound": {"threshold": 0.1, "warmup": 3, "last": 0},
    "one in a row": {"threshold": 0.5, "warmup": 3, "most": 1},
    "in a line": {"threshold": 0.1, "warmup": 3, "last": 0, "fill": "linear"},
}


def straight_loop(network, solve, x, steps, threshold, warmup, last=1, most=4, fill="output"):
    """One image: (its latents at the end, the steps left out)."""
    changes, skipped, row, computed = [], [], 0, []
    for i in range(steps):
        skip = warmup <= i < steps - last and row < most
        if skip:
            first, second, third = changes[-3:]
            skip = abs((first + third) / 2 - second) <= threshold * second
        row = row + 1 if skip else 0
        computed += [] if skip else [(i, network(x, i))]
        k, y = computed[-1]
        if fill == "linear" and skip:
            j, other = computed[-2]
            y = [now + (i - k) / (k - j) * (now - then) for now, then in zip(y, other, strict=True)]
        skipped += [i] * skip
        before, x = x, solve(y, i, x)
        changes.append((x - before).abs().mean().item())
    return x, skipped


@pytest.mark.parametrize("family", ["sd", "cogview4"])
@pytest.mark.parametrize("name", SETTINGS)
def test_equals_a_straight_loop(name, family):
    """Every image for itself, whether guidance goes in one call or in two."""
    case, options, ids = in_double(family), SETTINGS[name], [0, 1, 2]
    steps, skips = 10, []
    with watched(case.pipe, getattr(case.pipe, "unet", None) or case.pipe.transformer) as work:
        found = case.call(accelerate(case.pipe, [AdaptiveDiffusion(**options)]), ids, num_inference_steps=steps)
    rows = [max(rows[step] for rows in work.rows.values()) for step in range(steps)]
    whole = case.arguments
    case.arguments = lambda ids: {**whole(ids), "num_inference_steps": steps}
    for place, i in enumerate(ids):
        expected, skipped = run_loop(case, i, partial(straight_loop, **options))
        torch.testing.assert_close(found[place : place + 1], expected, rtol=1e-12, atol=1e-12)
        alone = case.call(accelerate(case.pipe, [AdaptiveDiffusion(**options)]), [i])
        torch.testing.assert_close(alone, expected, rtol=1e-12, atol=1e-12)
        skips.append(skipped)
    assert any(skips), "choose another threshold"
    each = rows[0] // len(ids)
    assert rows == [each * sum(step not in skipped for skipped in skips) for step in range(steps)]


@pytest.mark.parametrize("family", ["controlnet", "controlnets"])
def test_no_controlnet_is_called_where_the_network_is_not(family):
    case = build(family, smallest=True)
    driver = accelerate(case.pipe, [AdaptiveDiffusion(threshold=100.0, warmup=3, most=1)])
    case.call(driver, [0])
    assert driver.counts["network calls"] == driver.counts["controlnet calls"] == 5


@pytest.mark.parametrize("family", ["dit", "text_to_video"])
def test_solvers_whose_rows_are_no_images(family):
    """Both halves of guidance, or frames: an image is decided for by all of its own rows, and by no other's."""
    case, method = build(family, smallest=True), AdaptiveDiffusion(threshold=0.5, warmup=3)
    together = case.call(accelerate(case.pipe, [method]), [0, 1, 2])
    alone = case.call(accelerate(case.pipe, [method]), [2])
    torch.testing.assert_close(together[2:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold=-0.1 must be 0 or more"),
        ({"threshold": float("nan")}, "threshold=nan must be 0 or more"),
        ({"most": -1}, "most=-1 must be 0 or more"),
        ({"warmup": 2}, "warmup=2 must be 3 or more, for the rule looks at three changes"),
        ({"last": -1}, "last=-1 must be 0 or more"),
        ({"warmup": 0.5}, "warmup=0.5 must be int"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(UsageError, match=message) as error:
        AdaptiveDiffusion(**options)
    assert "\n" not in str(error.value)
