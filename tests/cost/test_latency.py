"""The stop-watch: order, rounds, quartiles, the loop inside a call."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from postdiff.cost import latency
from postdiff.cost.latency import Rounds, Timed, TimeIsUp, TimeLimit, measure
from postdiff.cost.moments import CudaMoments, Moments, moments_of
from postdiff.cost.ratios import Latency, ratio
from postdiff.engine.errors import UsageError
from tests.support.snapshot import snapshot
from tests.support.tiny import STEPS, build


def test_calls_are_interleaved_after_warm_up():
    order, ticks = [], []
    calls = {name: Timed(lambda name=name: order.append(name)) for name in "ab"}
    result = measure(calls, warmup=1, repeats=3, progress=lambda: ticks.append(1))
    assert order == ["a", "b", "b", "a"] * 2
    assert len(ticks) == 8
    assert len(result["a"].whole) == 3 and result["a"].loop == []


@pytest.fixture
def clock(monkeypatch):
    """A clock of our own, which only the calls move on."""
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    return now


def test_rounds_without_the_warm_up(clock):
    """9 s warming up, then 1 to 5 s; getting ready takes 100 s each time and does not count."""
    lasts = iter([9.0, 1.0, 3.0, 2.0, 4.0, 5.0])

    def call():
        clock[0] += next(lasts)

    @contextmanager
    def ready():
        clock[0] += 100
        yield
        clock[0] += 100

    found = measure({"a": Timed(call, ready)}, warmup=1, repeats=5)
    assert found["a"] == Rounds([1.0, 3.0, 2.0, 4.0, 5.0])
    assert Latency.of(found["a"].whole) == Latency(3.0, 2.0, 4.0, 5)


def test_a_ratio_is_taken_round_by_round():
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == Latency(3.0, 2.5, 3.5, 3)
    assert ratio([3.0], [2.0]) == Latency(1.5, 1.5, 1.5, 1)


def test_the_loop_of_a_call(clock):
    """A pipeline whose text encoder takes 10 s, each network call 3 s, each solver step 1 s, the rest nothing."""
    one = build("sd_ddim")
    one.call(one.pipe)  # a pipeline notes down its first call
    pipe, before = one.pipe, snapshot(one.pipe)

    def slow(original, seconds):
        def call(*args, **kwargs):
            clock[0] += seconds
            return original(*args, **kwargs)

        return call

    try:
        pipe.check_inputs = slow(pipe.check_inputs, 10)
        pipe.unet.forward = slow(pipe.unet.forward, 3)
        pipe.scheduler.step = slow(pipe.scheduler.step, 1)
        found = measure({"a": Timed(lambda: one.call(pipe), loops=[(pipe, pipe.scheduler)])}, warmup=0, repeats=2)
    finally:
        del pipe.check_inputs, pipe.unet.forward, pipe.scheduler.step
    assert found["a"] == Rounds([10.0 + 4 * STEPS] * 2, [4.0 * STEPS] * 2)
    assert snapshot(pipe) == before


def lasting(clock, *seconds):
    """A call that lasts so long, each time in turn, and the last one for ever after."""
    to_come = list(seconds)

    def call():
        clock[0] += to_come.pop(0) if len(to_come) > 1 else to_come[0]

    return Timed(call)


def test_rounds_end_when_the_time_is_up(clock):
    calls = {"a": lasting(clock, 1.0), "b": lasting(clock, 1.0)}
    found = measure(calls, warmup=1, repeats=50, limit=TimeLimit(9))
    assert found == {name: Rounds([1.0] * 3) for name in "ab"}
    assert clock[0] == 8, "a fourth round would have ended at 10 s"


def test_a_round_that_is_not_whole_does_not_count(clock):
    """Forwards, backwards, forwards; in the third round `a` takes all the time that is left, and more."""
    calls = {"a": lasting(clock, 1.0, 1.0, 5.0), "b": lasting(clock, 1.0)}
    found = measure(calls, warmup=0, repeats=50, limit=TimeLimit(7))
    assert found == {name: Rounds([1.0] * 2) for name in "ab"}
    assert clock[0] == 9, "nothing begins once the time is up"


def test_a_round_that_ends_late_is_whole(clock):
    calls = {"a": lasting(clock, 1.0), "b": lasting(clock, 1.0, 1.0, 5.0)}
    assert measure(calls, warmup=0, repeats=3, limit=TimeLimit(6.5))["b"].whole == [1.0, 1.0, 5.0]


@pytest.mark.parametrize(("warmup", "enough"), [(0, 10), (1, 20)])
def test_without_one_round_it_says_what_would_do(clock, warmup, enough):
    clock[0] = 100
    calls = {"a": lasting(clock, 4.0), "b": lasting(clock, 4.0)}
    with pytest.raises(TimeIsUp, match=f"nothing was measured: one round does not end in 5 s; {enough} s would do"):
        measure(calls, warmup=warmup, limit=TimeLimit(5))
    assert clock[0] == 104, "it is seen after the first call"


def test_parts_of_a_limit_go_by_what_is_left(clock):
    limit = TimeLimit(12)
    first = limit.part(3)
    clock[0] += 2  # it did not need its four seconds
    assert (first.left, limit.part(2).left, TimeLimit().part(2).left) == (2, 5, float("inf"))


def test_moments_belong_to_the_pipelines_device():
    on_gpu = moments_of(SimpleNamespace(device=torch.device("cuda:1")))
    assert isinstance(on_gpu, CudaMoments) and on_gpu.device == torch.device("cuda:1")
    assert type(moments_of(build("sd").pipe)) is Moments


def test_a_real_clock_runs():
    assert min(measure({"nap": Timed(lambda: time.sleep(0.01))}, warmup=0, repeats=2)["nap"].whole) >= 0.01


@pytest.mark.parametrize("arguments", [{"repeats": 0}, {"warmup": -1}])
def test_bad_rounds(arguments):
    with pytest.raises(UsageError, match="repeats >= 1 and warmup >= 0"):
        measure({"a": Timed(lambda: None)}, **arguments)
