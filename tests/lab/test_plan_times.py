"""Times of settings: what a call is divided into, and a table that is measured once."""

import json
import statistics
import time

import pytest

from postdiff.cost.moments import ProcessMoments
from postdiff.engine.errors import UsageError
from postdiff.lab.pipelines import cards
from postdiff.lab.planner.cost import Macs
from postdiff.lab.planner.space import Setting
from postdiff.lab.planner.times import CALLS, Times, timed_call

BASE = {"model": "emoji", "data": "emoji", "seeds": [0], "steps": 4}
DEEP = [{"deepcache": {"interval": 2, "branch": 0}}]


class Scheduler:
    """Steps that take as long as they are told."""

    def step(self, seconds):
        time.sleep(seconds)


class Pipeline:
    """Something before the loop, two steps, something after it."""

    scheduler = Scheduler()

    def progress_bar(self):
        return None

    def __call__(self):
        time.sleep(0.03)
        self.progress_bar()
        self.scheduler.step(0.02)
        self.scheduler.step(0.06)
        time.sleep(0.03)


def test_a_call_is_divided_at_the_ends_of_its_steps():
    pipe = Pipeline()
    around, steps = timed_call(pipe, pipe.scheduler, pipe)
    assert len(steps) == 2 and steps[0] >= 0.02 and steps[1] >= 0.06 and around >= 0.06
    assert "progress_bar" not in vars(pipe) and "step" not in vars(pipe.scheduler)


class Busy(Pipeline):
    """Steps that work rather than wait, and before them something that waits."""

    class Working:
        def step(self, seconds):
            begin = time.process_time()
            while time.process_time() - begin < seconds:
                pass

    scheduler = Working()


def test_on_the_processs_clock_waiting_is_left_out():
    pipe = Busy()
    around, steps = timed_call(pipe, pipe.scheduler, pipe, ProcessMoments())
    assert around < 0.03 and steps[0] >= 0.02 and steps[1] >= 0.06
    assert timed_call(pipe, pipe.scheduler, pipe)[0] >= 0.06


class Slowing:
    """A machine that is half as fast at every call as at the one before."""

    def __init__(self):
        self.pace = 1.0

    def reference(self):
        self.pace *= 2
        return self.pace, [self.pace] * 4

    def setting(self):
        return self.pace, [2 * self.pace, 3 * self.pace]


def test_the_machines_pace_is_divided_out(outputs, monkeypatch):
    machine, setting = Slowing(), Setting(2, {}, {}, [])
    monkeypatch.setattr(Times, "timer", lambda _, own: machine.reference if own.steps == 4 else machine.setting)
    macs = Macs(BASE, cards.card("emoji"))
    monkeypatch.setattr(macs, "steps", lambda own: ["full", "cached"])
    seconds = Times(BASE, macs, lambda _: None).of(setting)
    # (1 + 2 + 3) / 5 of the median reference, that of the third call: 5 * 2**3
    assert seconds == pytest.approx(6 / 5 * 40)


def test_a_kind_of_step_is_measured_once(outputs):
    said = []
    with Macs(BASE, cards.card("emoji")) as macs:
        times = Times(BASE, macs, said.append)
        times.of(Setting(4, {}, {}, []))
        deep, four = times.of(Setting(4, {"cache": "deep"}, {}, DEEP)), times.of(Setting(4, {}, {}, []))
        assert four > 0 and deep > 0 and len(said) == 2
        again = Times(BASE, macs, said.append)
        assert again.of(Setting(4, {}, {}, [])) == four and again.of(Setting(4, {"cache": "deep"}, {}, DEEP)) == deep
        two, eight = again.of(Setting(2, {}, {}, [])), again.of(Setting(8, {}, {}, []))
        assert len(said) == 2 and eight - four == pytest.approx(2 * (four - two))
        assert again.of(Setting(4, {}, {}, [{"easy_cache": {}}])) is None
        [file] = (outputs / "plans" / "times").glob("*.json")
        content = json.loads(file.read_text())
        assert 0 < content["shares"]["around"] < 1 and len(content["reference"]) == 2 * CALLS
        # The plain run of four steps is the reference itself.
        assert four == pytest.approx(statistics.median(content["reference"]), rel=0.5)
        file.write_text("{}")
        with pytest.raises(UsageError, match="does not hold times of steps; remove it"):
            Times(BASE, macs, said.append)


def test_steps_of_one_kind_are_told_from_others(outputs):
    macs = Macs(BASE, cards.card("emoji"))
    plain, deep = macs.steps(Setting(4, {}, {}, [])), macs.steps(Setting(4, {"cache": "deep"}, {}, DEEP))
    assert len({*plain}) == 1 and [deep[0], deep[1]] == [deep[2], deep[3]] and deep[0] != deep[1]
    assert all("deepcache" in kind for kind in deep)
    with pytest.raises(UsageError, match="does not fit"):
        macs.steps(Setting(4, {}, {}, [{"easy_cache": {}}]))
