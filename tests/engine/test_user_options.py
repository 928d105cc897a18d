"""Pipelines whose owner has set memory format or attention: the driver stays transparent, and caches hit."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from postdiff import accelerate, presets
from tests.support import tiny

STACKS = (["postdiff"], ["tome"], ["faster_diffusion"])
FEW = {"num_inference_steps": 6}


def last(pipe):
    pipe.unet.to(memory_format=torch.channels_last)


def classic(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())


@pytest.mark.parametrize("change", [last, classic])
def test_methods_on_a_pipeline_that_its_owner_has_changed(change):
    one = tiny.build("sd", small=True)
    fast = [accelerate(one.pipe, presets.build_methods(stack)) for stack in STACKS]
    usual = [(one.call(driver, **FEW), dict(driver.counts)) for driver in fast]
    change(one.pipe)
    assert torch.equal(one.call(accelerate(one.pipe), **FEW), one.call(one.pipe, **FEW))
    for driver, (expected, counts) in zip(fast, usual, strict=True):
        found = one.call(driver, **FEW)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert not torch.equal(found, expected), "the change did nothing"
        assert dict(driver.counts) == counts
    changed = one.pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    processors = {type(processor) for processor in one.pipe.unet.attn_processors.values()}
    assert (changed, processors) == ((True, {AttnProcessor2_0}) if change is last else (False, {AttnProcessor}))
