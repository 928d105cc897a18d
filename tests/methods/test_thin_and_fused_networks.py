"""Distilled U-Nets without a middle block, and projections fused into one layer: served, or refused in words."""

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.methods import DeepCache, ToDo
from tests.methods.test_properties import REFUSED
from tests.support import tiny
from tests.support.tiny_presets import build_methods, preset

pytestmark = pytest.mark.slow

PRESETS = catalog.names("methods")
FUSED = ["sd", "sdxl", "text_to_video", "animatediff", "pixart_alpha", "sd3", "hunyuan", "flux", "qwen_image", "wan"]


def thin():
    """As BK-SDM and tiny-sd are: one layer a block, and nothing in the middle."""
    one = tiny.build("sd", small=True)
    one.pipe.register_modules(unet=tiny.unet(mid_block_type=None))
    assert one.pipe.unet.mid_block is None
    return one


@pytest.fixture(scope="module")
def thin_case():
    one = thin()
    return one, one.call(one.pipe)


@pytest.mark.parametrize("name", [name for name in PRESETS if "sd" not in REFUSED[name]])
def test_no_middle_block(thin_case, name):
    one, bare = thin_case
    found = one.call(accelerate(one.pipe, build_methods([name])))
    assert torch.isfinite(found).all() and not torch.equal(found, bare)
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(preset(name).identity))), bare)
    assert torch.equal(one.call(one.pipe), bare)


@pytest.mark.parametrize("branch", range(6))
def test_deepcache_without_a_middle_block(thin_case, branch):
    """What lies below the branch is replayed; below the last one there is nothing left."""
    one, bare = thin_case
    if branch == 5:
        with pytest.raises(UsageError, match="nothing lies below branch=5 .* no middle block; use 4 or less"):
            accelerate(one.pipe, [DeepCache(branch=branch)])
        return
    fast = accelerate(one.pipe, [DeepCache(interval=2, branch=branch)])
    assert not torch.equal(one.call(fast), bare)
    assert fast.counts["deepcache hits"] == fast.counts["deepcache misses"] > 0


def fused(family):
    one = tiny.build(family, smallest=True)
    (getattr(one.pipe, "transformer", None) or one.pipe.unet).fuse_qkv_projections()
    return one


@pytest.fixture(scope="module")
def fused_case():
    made = {}

    def of(family):
        if family not in made:
            one = fused(family)
            made[family] = one, one.call(one.pipe)
        return made[family]

    return of


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name in PRESETS for family in FUSED if family == "sd" or name in ("fora", "tgate")],
)
def test_fused_projections(smallest, fused_case, name, family):
    """One layer in the place of three moves results by rounding, and no more."""
    if family in REFUSED[name]:
        return
    (one, bare), (plain, _) = fused_case(family), smallest(family)
    if name == "todo":
        with pytest.raises(UsageError, match=r"ToDo: fused projections .* pipe.unfuse_qkv_projections\(\)"):
            accelerate(one.pipe, build_methods([name]))
        return
    found = one.call(accelerate(one.pipe, build_methods([name])))
    expected = plain.call(accelerate(plain.pipe, build_methods([name])))
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(preset(name).identity))), bare)


def test_fused_after_the_driver_was_made():
    one = tiny.build("sd", smallest=True)
    fast = accelerate(one.pipe, [ToDo([2])])
    expected = one.call(fast)
    one.pipe.fuse_qkv_projections()
    with pytest.raises(UsageError, match="fused projections"):
        one.call(fast)
    one.pipe.unfuse_qkv_projections()
    assert torch.equal(one.call(fast), expected)
