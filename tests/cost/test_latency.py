"""The stop-watch: order, rounds, quartiles."""

import time

import pytest

from postdiff.cost.latency import measure
from postdiff.engine.errors import UsageError


def test_calls_are_interleaved_after_warm_up():
    order, ticks = [], []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    result = measure(calls, warmup=1, repeats=3, progress=lambda: ticks.append(1))
    assert order == ["a", "b"] * 4
    assert len(ticks) == 8
    assert result["a"].repeats == 3


def test_median_and_quartiles_of_sleeps():
    naps = iter([0.5, 0.01, 0.03, 0.02, 0.04, 0.05])
    result = measure({"nap": lambda: time.sleep(next(naps))}, warmup=1, repeats=5)["nap"]
    assert result.median_s == pytest.approx(0.03, abs=0.009)
    assert result.q25_s == pytest.approx(0.02, abs=0.009)
    assert result.q75_s == pytest.approx(0.04, abs=0.009)


@pytest.mark.parametrize("arguments", [{"repeats": 0}, {"warmup": -1}])
def test_bad_rounds(arguments):
    with pytest.raises(UsageError, match="repeats >= 1 and warmup >= 0"):
        measure({"a": lambda: None}, **arguments)
