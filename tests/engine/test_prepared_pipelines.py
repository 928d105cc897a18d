"""Pipelines that their owners have prepared: methods do there what they do in plain, or are refused in one line."""

import pytest
from accelerate.hooks import AlignDevicesHook, CpuOffload

from postdiff import accelerate
from postdiff.methods import DeepCache
from tests.support import preparations, prepared_outcomes, prepared_table
from tests.support.prepared import PREPARATIONS, Preparation

pytestmark = pytest.mark.slow

CELLS = [(name, family) for name, each in PREPARATIONS.items() for family in each.families]
# Of each kind one: a cache of blocks, of attention, several steps in one call, merging, another size, through pixels.
WEIGHTY = (
    *("deepcache", "first_block_cache", "faster_diffusion", "tome", "mixed_resolution_pixels", "taylor_seer"),
    *("postdiff", "block_cache", "pyramid_attention_broadcast", "tea_cache", "cross_attention_cache", "tgate"),
)


@pytest.fixture(scope="module")
def message():
    return prepared_table.read()


@pytest.mark.parametrize(("name", "family"), CELLS)
def test_methods_on_a_prepared_pipeline(message, name, family):
    prepared_outcomes.bare(name, family)
    known = [preset for preset in WEIGHTY if prepared_outcomes.serves(family, preset)]
    preset = known[CELLS.index((name, family)) % len(known)]
    refused = prepared_outcomes.outcome(name, family, preset)
    assert (refused is None) == (preset not in message[name, family]), f"{preset}: {refused}; write the table anew"


def test_the_table_is_of_this_list(message):
    assert list(message) == CELLS
    assert prepared_table.titles() == [each.title for each in PREPARATIONS.values()]


@pytest.mark.parametrize(
    ("name", "hook"), [("offload_with_hook", CpuOffload), ("sequential_offload", AlignDevicesHook)]
)
def test_hooks_are_asked_for_all_that_is_computed(monkeypatch, name, hook):
    case = prepared_outcomes.fresh("sd")
    PREPARATIONS[name].prepare(case)
    asked, before = [], hook.pre_forward
    monkeypatch.setattr(
        hook, "pre_forward", lambda self, *args, **kwargs: asked.append(1) or before(self, *args, **kwargs)
    )
    counted = []
    for run in (case.pipe, accelerate(case.pipe), accelerate(case.pipe, [DeepCache(interval=2)])):
        asked.clear()
        case.call(run)
        counted.append(len(asked))
    bare, alone, cached = counted
    assert bare == alone > 0
    assert cached == bare if hook is CpuOffload else bare / 2 < cached < bare
    if hook is AlignDevicesHook:
        assert {weight.device.type for weight in case.pipe.unet.parameters()} == {"meta"}


def test_a_fault_is_seen(monkeypatch):
    """Groups of blocks that are not brought back are numbers of nothing, and the check says so."""
    from postdiff.engine import wrapped

    monkeypatch.setattr(wrapped, "refuse_torn_groups", lambda *_: None)
    prepared_outcomes.bare.cache_clear()
    with pytest.raises(AssertionError):
        prepared_outcomes.outcome("groups_of_two", "sd", "deepcache")
    prepared_outcomes.bare.cache_clear()


def test_a_network_that_computes_something_else_is_seen(monkeypatch):
    def other(case):
        preparations.network(case).conv_in.weight.data.mul_(1.01)

    wrong = Preparation("wrong", other, lambda case: None)
    monkeypatch.setitem(PREPARATIONS, "wrong", wrong)
    with pytest.raises(AssertionError, match="from what it does in plain"):
        prepared_outcomes.outcome("wrong", "sd", "deepcache")
