"""The stop-watch: order, rounds, quartiles."""

import time

import pytest

from postdiff.cost import latency
from postdiff.cost.latency import Latency, measure
from postdiff.engine.errors import UsageError


def test_calls_are_interleaved_after_warm_up():
    order, ticks = [], []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    result = measure(calls, warmup=1, repeats=3, progress=lambda: ticks.append(1))
    assert order == ["a", "b"] * 4
    assert len(ticks) == 8
    assert result["a"].repeats == 3


def test_median_and_quartiles_without_the_warm_up(monkeypatch):
    """On a clock of our own, which only the calls move on: 9 s warming up, then 1 to 5 s."""
    now, lasts = [0.0], iter([9.0, 1.0, 3.0, 2.0, 4.0, 5.0])
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += next(lasts)

    assert measure({"a": call}, warmup=1, repeats=5)["a"] == Latency(3.0, 2.0, 4.0, 5)


def test_a_real_clock_runs():
    assert measure({"nap": lambda: time.sleep(0.01)}, warmup=0, repeats=2)["nap"].median_s >= 0.01


@pytest.mark.parametrize("arguments", [{"repeats": 0}, {"warmup": -1}])
def test_bad_rounds(arguments):
    with pytest.raises(UsageError, match="repeats >= 1 and warmup >= 0"):
        measure({"a": lambda: None}, **arguments)
