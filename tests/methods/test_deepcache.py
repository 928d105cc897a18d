"""DeepCache against its authors' package."""

import numpy as np
import pytest
import torch
from DeepCache import DeepCacheSDHelper

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family
from postdiff.engine.state import State
from postdiff.methods import DeepCache
from tests.support.tiny import STEPS, build


def official(name, interval, branch, prepare=lambda pipe: None):
    one = build(name)  # a pipeline of its own: the helper leaves its wrappers in the instance dictionaries
    prepare(one.pipe)
    helper = DeepCacheSDHelper(pipe=one.pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return one.call(one.pipe)


# The authors' helper counts on two layers a block.
DEEP = ("sd_deep_dpm++", "sd_deep_euler", "sd_deep_pndm", "sdxl_deep")
BRANCHES = [("sd_deep", branch) for branch in range(6)] + [(name, branch) for name in DEEP for branch in (1, 3, 5)]


@pytest.mark.parametrize(("name", "branch"), BRANCHES)
def test_equals_the_official_helper(case, baseline, name, branch):
    one = case(name)
    ours = one.call(accelerate(one.pipe, [DeepCache(interval=3, branch=branch)]))
    assert torch.equal(ours, official(name, 3, branch))
    assert not torch.equal(ours, baseline(name))


@pytest.mark.parametrize("interval", [2, 5])
def test_other_intervals(case, interval):
    one = case("sd_deep")
    ours = one.call(accelerate(one.pipe, [DeepCache(interval=interval, branch=1)]))
    assert torch.equal(ours, official("sd_deep", interval, 1))


def test_paper_numbering_is_one_behind(case):
    one = case("sd_ddim")
    helper = one.call(accelerate(one.pipe, [DeepCache(branch=2)]))
    assert torch.equal(helper, one.call(accelerate(one.pipe, [DeepCache(branch=1, numbering="paper")])))


def test_restarts_force_full_steps(case):
    one = case("sd_ddim")
    driver = accelerate(one.pipe, [DeepCache(interval=3, branch=1, restarts=[4, 5])])
    full = []
    handle = one.pipe.unet.mid_block.resnets[0].register_forward_hook(
        lambda *_: full.append(driver.counts["network calls"] - 1)
    )
    try:
        one.call(driver)
    finally:
        handle.remove()
    assert full == [0, 3, 4, 5]
    assert STEPS == 8


def full_steps(one, **options):
    driver, full = accelerate(one.pipe, [DeepCache(branch=1, **options)]), []
    handle = one.pipe.unet.mid_block.resnets[0].register_forward_hook(
        lambda *_: full.append(driver.counts["network calls"] - 1)
    )
    try:
        one.call(driver, num_inference_steps=50)
    finally:
        handle.remove()
    return full


def test_published_nonuniform_schedule(case):
    """SD-1.5, 50 steps, 10 full ones, center 15, power 1.4: as the authors' code runs it."""
    expected = [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]
    assert full_steps(case("sd_ddim"), interval=5, schedule="nonuniform", center=15, power=1.4) == expected
    fraction = full_steps(case("sd_ddim"), interval=5, schedule="nonuniform", restarts=[40])
    assert fraction == [*expected[:-1], 40, 43]


@pytest.mark.parametrize("power", [1.2, 1.4, 1.8])
@pytest.mark.parametrize(("steps", "interval", "center"), [(50, 5, 15), (50, 10, 20), (25, 3, 8), (250, 10, 75)])
def test_nonuniform_schedule_as_numpy_rounds_it(steps, interval, center, power):
    """The same rule on numpy's complex numbers, whose conversion to integers drops the imaginary part."""
    count = -(-steps // interval)
    while True:
        ends = np.array([-center, steps - center], dtype=complex) ** (1 / power)
        offsets = np.unique((np.linspace(*ends, count + 1) ** power).real.astype(int))
        if len(offsets) == count + 1:
            break
        power -= 0.02
    expected = [0, *(offsets[1:-1] + center)]
    given = DeepCache(interval=interval, schedule="nonuniform", center=center, power=power)
    due = given._rule(State(family=Family("unet"), scheduler=None, steps=steps))
    assert [step for step in range(1, steps) if due(step - 1, step)] == expected[1:]


def test_nonuniform_schedule_that_does_not_exist(case):
    fast = accelerate(case("sd").pipe, [DeepCache(interval=2, schedule="nonuniform", center=3)])
    with pytest.raises(UsageError, match="no non-uniform schedule has 3 full steps of 6 around center=3"):
        case("sd").call(fast, num_inference_steps=6)


def test_nonuniform_with_interval_one_is_the_baseline(case, baseline):
    one = case("sd_ddim")
    ours = one.call(accelerate(one.pipe, [DeepCache(interval=1, schedule="nonuniform")]))
    assert torch.equal(ours, baseline("sd_ddim"))


def test_branch_below_the_last_level(case):
    with pytest.raises(UsageError, match="branch=9 is deeper than UNet2DConditionModel, whose last is 8"):
        accelerate(case("sd_deep").pipe, [DeepCache(branch=9)])
    with pytest.raises(UsageError, match="whose last is 7"):
        accelerate(case("sd_deep").pipe, [DeepCache(branch=8, numbering="paper")])


def test_transformer_is_refused(case):
    with pytest.raises(UsageError, match="DeepCache needs a U-Net with skip connections; DiTTransformer2DModel"):
        accelerate(case("dit").pipe, [DeepCache()])


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0},
        {"branch": -1},
        {"numbering": "mine"},
        {"restarts": ["late"]},
        {"interval": 2.5},
        {"schedule": "quadratic"},
        {"center": -1},
        {"power": 1.0},
    ],
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        DeepCache(**options)
