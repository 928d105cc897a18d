"""Networks that a user has wrapped, and an accelerated pipeline in the place of the pipeline."""

import copy
import pickle

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from peft import LoraConfig, get_peft_model

from postdiff import Driver, accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.methods import CFGCutoff, DeepCache, EncoderPropagation, MixedResolution, NoiseInjection
from tests.support import tiny
from tests.support.parts import BETAS, unet
from tests.support.snapshot import snapshot
from tests.support.tiny_presets import build_methods, preset

pytestmark = pytest.mark.slow

OUTSIDE = {
    "none": [],
    "mixed_resolution": [MixedResolution(beta=0.5, switch=3)],
    "cfg_cutoff": [CFGCutoff(gate=3)],
    "noise_injection": [NoiseInjection()],
}


@pytest.fixture(scope="module")
def compiled():
    """A pipeline with a compiled U-Net (by tracing alone, no code is made), and what every stack drew before."""
    one = tiny.build("sd", smallest=True)
    drawn = {name: one.call(accelerate(one.pipe, stack)) for name, stack in OUTSIDE.items()}
    one.pipe.unet = torch.compile(one.pipe.unet, backend="eager")
    return one, drawn


@pytest.mark.parametrize("name", OUTSIDE)
def test_methods_around_a_compiled_network(compiled, name):
    one, drawn = compiled
    before, fast = snapshot(one.pipe), accelerate(one.pipe, OUTSIDE[name])
    torch.testing.assert_close(one.call(fast), drawn[name], rtol=1e-4, atol=1e-5)
    assert fast.counts["network calls"] == tiny.FEW_STEPS
    assert snapshot(one.pipe) == before


@pytest.mark.parametrize("name", catalog.names("methods"))
def test_no_method_ends_in_compiled_code(compiled, name):
    """It runs around the network, or it is refused in words."""
    one, _ = compiled
    try:
        fast = accelerate(one.pipe, build_methods(preset(name).methods))
        one.call(fast)
    except UsageError as refused:
        assert len(str(refused)) < 300
    else:
        assert name in {
            "mixed_resolution", "mixed_resolution_three", "mixed_resolution_pixels", "mixed_resolution_cosine",
            "cfg_cutoff", "noise_injection", "guided_channels", "guidance_interval", "lazy_cache", "sada",
            "step_mask", "easy_cache", "spectrum", "adaptive_diffusion", "sea_cache_network",
        }  # fmt: skip


@pytest.mark.parametrize("which", ["mid_block", "down_blocks.0"])
def test_methods_inside_a_compiled_block(which):
    one = tiny.build("sd", smallest=True)
    expected = one.call(accelerate(one.pipe, [DeepCache(interval=2)]))
    one.pipe.unet.get_submodule(which).compile(backend="eager")
    fast = accelerate(one.pipe, [EncoderPropagation(keys=2)])
    with pytest.raises(UsageError, match="UNet2DConditionModel, which is compiled"):
        one.call(fast)
    assert not any("forward" in vars(module) for module in one.pipe.unet.modules())
    one.pipe.unet.get_submodule(which)._compiled_call_impl = None
    torch.testing.assert_close(one.call(accelerate(one.pipe, [DeepCache(interval=2)])), expected)


@pytest.mark.parametrize(
    "name", ["mixed_resolution", "deepcache", "tome", "cross_attention_cache", "encoder_propagation"]
)
def test_a_network_with_adapters_of_peft(name):
    one = tiny.build("sd", smallest=True)
    expected = one.call(one.pipe)
    plain = one.call(accelerate(one.pipe, build_methods([name])))
    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False)
    one.pipe.unet = get_peft_model(one.pipe.unet, lora).eval()
    bare = one.call(one.pipe)
    assert not torch.equal(bare, expected)
    before = snapshot(one.pipe)
    assert torch.equal(one.call(accelerate(one.pipe)), bare)
    identity = accelerate(one.pipe, build_methods(preset(name).identity))
    assert torch.equal(one.call(identity), bare)
    fast = accelerate(one.pipe, build_methods([name]))
    adapted = one.call(fast)
    assert not torch.equal(adapted, plain) and not torch.equal(adapted, bare)
    assert snapshot(one.pipe) == before
    with one.pipe.unet.disable_adapter():
        assert torch.equal(one.call(fast), plain)


def test_settings_go_to_the_pipeline():
    one = tiny.build("sd", smallest=True)
    fast = accelerate(one.pipe, [DeepCache(interval=2)])
    fast.scheduler = solver = EulerDiscreteScheduler(**BETAS)
    assert one.pipe.scheduler is solver
    euler = one.call(fast)
    assert torch.equal(euler, one.call(accelerate(one.pipe, [DeepCache(interval=2)])))
    fast.unet = other = unet(levels=2)
    assert fast.network is other and one.pipe.unet is other
    with pytest.raises(AttributeError, match="neither the driver nor StableDiffusionPipeline has 'sheduler'"):
        fast.sheduler = solver
    with pytest.raises(AttributeError, match="sheduler"):
        fast.sheduler  # noqa: B018


def test_another_network_must_fit_the_methods_too():
    one = tiny.build("sd", smallest=True)
    fast = accelerate(one.pipe, [DeepCache(interval=2)])
    fast.unet = tiny.build("sd3", smallest=True).pipe.transformer
    with pytest.raises(UsageError, match="DeepCache needs a U-Net"):
        one.call(fast)


def test_what_a_pipeline_can_do_an_accelerated_one_can():
    one = tiny.build("sd", smallest=True)
    fast = accelerate(one.pipe, [CFGCutoff(gate=3)])
    assert fast.to(torch.float32) is fast
    assert fast.config == one.pipe.config and fast.components.keys() == one.pipe.components.keys()
    fast.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    freed = one.call(fast)
    fast.disable_freeu()
    assert not torch.equal(freed, one.call(fast))


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda fast: pickle.loads(pickle.dumps(fast))])
def test_copies_of_an_accelerated_pipeline(twin_of):
    one = tiny.build("sd", smallest=True)
    fast = accelerate(one.pipe, [DeepCache(interval=2)])
    twin = twin_of(fast)
    assert isinstance(twin, Driver) and torch.equal(one.call(twin), one.call(fast))
