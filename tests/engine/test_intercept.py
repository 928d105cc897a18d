"""The patching primitive: order, restoration, signatures, deep copies."""

import copy
import inspect

import pytest

from postdiff.engine.intercept import intercept


class Thing:
    def __init__(self):
        self.first = 1
        self.second = 2

    def act(self, x, *, scale=1):
        return x * scale


def plus(amount):
    return lambda forward, *args, **kwargs: forward(*args, **kwargs) + amount


def test_wraps_and_restores():
    thing = Thing()
    before = list(vars(thing).items())
    with intercept(thing, "act", plus(10)):
        assert thing.act(1, scale=2) == 12
    assert thing.act(1, scale=2) == 2
    assert list(vars(thing).items()) == before


def test_last_entered_is_outermost():
    thing = Thing()
    with intercept(thing, "act", plus(1)), intercept(thing, "act", lambda f, x: f(x) * 10):
        assert thing.act(1) == 20
    assert thing.act(1) == 1


def test_original_may_be_skipped():
    thing = Thing()
    with intercept(thing, "act", lambda forward, x: "skipped"):
        assert thing.act(1) == "skipped"


def test_restores_an_instance_attribute_in_its_place():
    thing = Thing()
    thing.act = mine = lambda x: -x
    thing.third = 3
    keys = list(vars(thing))
    with intercept(thing, "act", plus(1)):
        assert thing.act(5) == -4
    assert thing.act is mine
    assert list(vars(thing)) == keys


def test_restores_after_an_exception():
    thing = Thing()
    with pytest.raises(ZeroDivisionError), intercept(thing, "act", lambda forward, x: 1 / 0):
        thing.act(1)
    assert "act" not in vars(thing)


def test_keeps_the_signature_that_pipelines_inspect():
    thing = Thing()
    original = inspect.signature(thing.act)
    with intercept(thing, "act", plus(1)):
        assert inspect.signature(thing.act) == original


def test_a_deep_copy_acts_on_the_copy():
    thing = Thing()
    thing.total = 0

    class Adder(Thing):
        def act(self, x):
            self.first += x
            return self.first

    adder = Adder()
    with intercept(adder, "act", plus(100)):
        twin = copy.deepcopy(adder)
        assert twin.act(5) == 106
    assert adder.first == 1
    assert twin.first == 6
