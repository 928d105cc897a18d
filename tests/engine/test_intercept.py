"""The patching primitive: order, restoration, signatures, deep copies."""

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from postdiff.engine.intercept import Scope, beneath, intercept


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
    original, seen = inspect.signature(thing.act), []

    def look(forward, *args, **kwargs):
        seen.append(inspect.signature(forward))
        return forward(*args, **kwargs)

    with intercept(thing, "act", look), intercept(thing, "act", look), intercept(thing, "act", plus(1)):
        assert inspect.signature(thing.act) == original
        thing.act(1)
    assert seen == [original] * 2


class Adder(Thing):
    def act(self, x):
        self.first += x
        return self.first


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize("own", [False, True])
def test_a_copy_acts_on_itself_and_is_not_intercepted(twin_of, own):
    """A pipeline may step a copy of its scheduler; those steps are none of the run's."""
    adder = Adder()
    if own:
        adder.act = adder.act
    with intercept(adder, "act", plus(100)):
        twin = twin_of(adder)
        assert twin.act(5) == 6
        assert adder.act(1) == 102
    assert adder.first == 2
    assert twin.first == 6
    assert twin.act(1) == 7


def test_attributes_that_are_copied_and_put_back_stay_intercepted():
    """MultiDiffusion keeps a solver's state so, between its windows."""
    adder = Adder()
    with intercept(adder, "act", plus(100)):
        kept = copy.deepcopy(vars(adder))
        adder.act(5)
        vars(adder).update(kept)
        assert adder.act(1) == 102


def test_only_calls_of_a_scope_see_what_it_intercepts():
    thing, scope = Thing(), Scope()
    before = list(vars(thing).items())
    scope.open()
    try:
        with intercept(thing, "act", plus(1)):
            assert thing.act(1) == 2
            with scope.suspended():
                assert thing.act(1) == 1
                with intercept(thing, "act", plus(10)):  # entered outside of any scope: for all
                    assert thing.act(1) == 11
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(thing.act, 1).result() == 1
            assert thing.act(1) == 2
    finally:
        scope.close()
    assert list(vars(thing).items()) == before


@pytest.mark.parametrize("first", [0, 1])
def test_scopes_may_end_in_any_order(first):
    thing = Thing()
    before = list(vars(thing).items())

    def opened(amount):
        scope = Scope()
        scope.open()
        intercept(thing, "act", plus(amount)).__enter__()
        assert thing.act(0) == amount
        return scope

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        threads = [one, other]
        scopes = [thread.submit(opened, amount).result() for thread, amount in zip(threads, (1, 10), strict=True)]
        threads[first].submit(scopes[first].close).result()
        assert threads[1 - first].submit(thing.act, 0).result() == (10, 1)[first]
        for place in (1 - first, first):
            threads[place].submit(scopes[place].close).result()
            assert list(vars(thing).items()) == before


def test_what_a_scope_holds_is_undone_though_no_with_statement_got_hold_of_it():
    thing, scope = Thing(), Scope()
    scope.open()
    intercept(thing, "act", plus(1)).__enter__()
    scope.close()
    assert "act" not in vars(thing)
    assert thing.act(1) == 1


def test_what_is_beneath_does_not_change_with_what_comes_later():
    thing = Thing()
    with intercept(thing, "act", plus(1)):
        below = beneath(thing, "act")
        with intercept(thing, "act", lambda forward, x: below(x) * 10):
            assert thing.act(1) == 20
    assert beneath(thing, "act")(1) == 1


def test_a_wrapper_that_somebody_else_put_on_meanwhile_stays():
    thing = Thing()
    with intercept(thing, "act", plus(1)):
        inner = thing.act
        thing.act = lambda x: inner(x) * 2
        assert thing.act(1) == 4
    assert thing.act(1) == 2
