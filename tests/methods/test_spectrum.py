"""Spectrum: published schedules, the authors' weights, and what its forecasts are exact for."""

import numpy as np
import pytest
import torch
from torch import nn

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import Spectrum
from tests.support.tiny import build
from tests.support.work import watched


def at_steps(steps, **options):
    """The method in a run of so many steps."""
    method = Spectrum(**options)
    method.steps = steps
    return method


@pytest.mark.parametrize(
    ("growth", "of_50", "fewer"),
    [
        (0.25, [6, 8, 10, 12, 15, 18, 21, 24, 28, 32, 36, 40, 45], (14, 13, 11)),
        (0.5, [6, 8, 11, 14, 18, 22, 27, 32, 38, 44], (12, 11, 10)),
        (0.75, [6, 8, 11, 15, 20, 25, 31, 38, 46], (11, 10, 9)),
        (1.0, [6, 9, 13, 18, 24, 31, 39, 48], (10, 10, 9)),
        (3.0, [6, 11, 19, 30, 44], (8, 8, 8)),
    ],
)
def test_published_schedules(growth, of_50, fewer):
    method = Spectrum(growth=growth, last=0)
    assert method._schedule(50) == [*range(5), *of_50]
    assert tuple(len(method._schedule(steps)) for steps in (30, 25, 20)) == fewer
    assert Spectrum(growth=growth)._schedule(50)[-1] == 49 and Spectrum(growth=0.0, interval=1)._schedule(9) == [
        *range(9)
    ]


STEPS_AT = (5, 9, 14, 24, 30, 45, 49)


def weights(method, now):
    return np.array(method._weights([step for step in method._schedule(50) if step < now], now))


@pytest.mark.parametrize(
    ("intercept", "sums", "l1"),
    [
        ("penalised", (0.939, 0.925, 0.899, 0.874, 0.866, 0.730, 0.938), (1.53, 1.30, 2.48, 1.63, 2.83, 2.34, 4.34)),
        ("free", (1.0,) * 7, (1.57, 1.42, 2.64, 1.70, 3.04, 2.70, 4.38)),
    ],
)
def test_weights_of_the_authors_code_and_of_ours(intercept, sums, l1):
    method = at_steps(50, blend=1.0, intercept=intercept, last=0)
    found = [weights(method, now) for now in STEPS_AT]
    np.testing.assert_allclose([each.sum() for each in found], sums, atol=6e-4)
    np.testing.assert_allclose([np.abs(each).sum() for each in found], l1, atol=6e-3)


@pytest.mark.parametrize("degree", [0, 1, 4])
@pytest.mark.parametrize("steps", [20, 50, 100])
def test_polynomials_up_to_the_degree_are_exact(degree, steps):
    method = at_steps(steps, ridge=0.0, degree=degree, blend=1.0)
    computed = method._schedule(steps)
    for now in set(range(5, steps)) - {*computed}:
        known = [step for step in computed if step < now]
        for power in range(degree + 1):
            found = sum(a * (k / steps) ** power for a, k in zip(method._weights(known, now), known, strict=True))
            assert found == pytest.approx((now / steps) ** power, abs=1e-8)


@pytest.mark.parametrize("steps", [4, 8, 20, 100])
@pytest.mark.parametrize("blend", [0.0, 0.5, 1.0])
def test_weights_stay_sane_whatever_the_length(steps, blend):
    """A constant is exact, and no forecast magnifies what it is made of beyond a plain line."""
    method = at_steps(steps, blend=blend, warmup=2)
    computed = method._schedule(steps)
    for now in set(range(steps)) - {*computed}:
        found = method._weights([step for step in computed if step < now], now)
        assert sum(found) == pytest.approx(1) and sum(map(abs, found)) < 8
    assert method._weights([3], 4) == [pytest.approx(1)], "one step is known after a change of size"
    assert sum(method._weights([3, 4], 5)) == pytest.approx(1)


def test_without_polynomials_it_is_a_line():
    assert at_steps(50, blend=0.0)._weights([0, 1, 2, 3, 7], 9) == pytest.approx([0, 0, 0, -0.5, 1.5])


def test_forecasts_are_what_the_weights_say():
    """In half precision they are summed in single, in double in double."""
    for dtype, tolerance in ((torch.float16, 1e-2), (torch.float64, 1e-12)):
        method = at_steps(20, history=6)
        [replay] = method.replays(nn.Identity())
        kept, past = None, [torch.randn(1, 4, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(9)]
        for step, y in enumerate(past):
            kept = replay.fill.keep(kept, [], [y], step)
        [found] = replay.fill.give(kept, [], 10)
        expected = sum(a * y.double() for a, y in zip(method._weights(range(3, 9), 10), past[3:], strict=True))
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_weights_are_found_once_a_step(monkeypatch):
    case, asked = build("flux_cfg", smallest=True), []
    inner = Spectrum._weights
    monkeypatch.setattr(Spectrum, "_weights", lambda self, steps, now: (asked.append(now), inner(self, steps, now))[1])
    with watched(case.pipe, case.pipe.transformer) as work:
        case.call(accelerate(case.pipe, [Spectrum(warmup=2)]))
    assert work.steps == {0, 1, 3, 5} and asked == [2, 4], "two branches, one forecast each"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0.5}, "interval=0.5 must be 1 or more"),
        ({"interval": float("nan")}, "interval=nan must be 1 or more"),
        ({"growth": -1.0}, "growth=-1.0 must be 0 or more"),
        ({"warmup": 0}, "warmup=0 must be 1 or more"),
        ({"last": -1}, "last=-1 must be 0 or more"),
        ({"degree": -1}, "degree=-1 must be from 0 to 20"),
        ({"ridge": float("inf")}, "ridge=inf must be 0 or more"),
        ({"blend": 1.5}, "blend=1.5 must be a share"),
        ({"history": 4}, "history=4 must be more than degree=4, and 2 or more"),
        ({"history": 1, "degree": 0}, "history=1 must be more than degree=0, and 2 or more"),
        ({"intercept": "none"}, "unknown intercept of Spectrum 'none'"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(UsageError, match=message) as error:
        Spectrum(**options)
    assert "\n" not in str(error.value)
