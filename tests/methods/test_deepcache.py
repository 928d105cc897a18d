"""DeepCache against its authors' package."""

import pytest
import torch
from DeepCache import DeepCacheSDHelper

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import DeepCache
from tests.support.tiny import STEPS, build


def official(name, interval, branch):
    one = build(name)  # a pipeline of its own: the helper leaves its wrappers in the instance dictionaries
    helper = DeepCacheSDHelper(pipe=one.pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return one.call(one.pipe)


@pytest.mark.parametrize("branch", range(6))
@pytest.mark.parametrize("name", ["sd_ddim", "sd_dpm++", "sd_euler", "sd_pndm", "sdxl"])
def test_equals_the_official_helper(case, baseline, name, branch):
    one = case(name)
    ours = one.call(accelerate(one.pipe, [DeepCache(interval=3, branch=branch)]))
    assert torch.equal(ours, official(name, 3, branch))
    assert not torch.equal(ours, baseline(name))


@pytest.mark.parametrize("interval", [2, 5])
def test_other_intervals(case, interval):
    one = case("sd_ddim")
    ours = one.call(accelerate(one.pipe, [DeepCache(interval=interval, branch=1)]))
    assert torch.equal(ours, official("sd_ddim", interval, 1))


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


def test_branch_below_the_last_level(case):
    with pytest.raises(UsageError, match="branch=9 is deeper than UNet2DConditionModel, whose last is 8"):
        accelerate(case("sd").pipe, [DeepCache(branch=9)])
    with pytest.raises(UsageError, match="whose last is 7"):
        accelerate(case("sd").pipe, [DeepCache(branch=8, numbering="paper")])


def test_transformer_is_refused(case):
    with pytest.raises(UsageError, match="DeepCache needs a U-Net with skip connections; DiTTransformer2DModel"):
        accelerate(case("dit").pipe, [DeepCache()])


@pytest.mark.parametrize(
    "options", [{"interval": 0}, {"branch": -1}, {"numbering": "mine"}, {"restarts": ["late"]}, {"interval": 2.5}]
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        DeepCache(**options)
