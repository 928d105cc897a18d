"""Cutting guidance equals never having had it."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import CFGCutoff
from tests.support.recorder import Recorder
from tests.support.tiny import FAMILY_CASES, STEPS, sd

# Without guidance of their own, or asked for it by another argument (tests/engine/test_separate_calls.py).
OTHERS = ("lcm", "flux", "flux_cfg", "qwen_image")


@pytest.mark.parametrize("name", [name for name in FAMILY_CASES if name not in OTHERS])
def test_gate_zero_equals_guidance_scale_one(case, name):
    one = case(name)
    cut = one.call(accelerate(one.pipe, [CFGCutoff(gate=0)]))
    assert torch.equal(cut, one.call(one.pipe, guidance_scale=1.0))


def test_gate_in_the_middle_equals_a_straight_loop():
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    ours = one.call(accelerate(one.pipe, [CFGCutoff(gate=4)]), latents=noise)
    arguments, scheduler, x = one.arguments([0, 1]), copy.deepcopy(one.pipe.scheduler), noise
    scheduler.set_timesteps(STEPS)
    c_text, u_text = arguments["prompt_embeds"], arguments["negative_prompt_embeds"]
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            if i < 4:
                u, c = one.pipe.unet(
                    torch.cat([x, x]), t, encoder_hidden_states=torch.cat([u_text, c_text])
                ).sample.chunk(2)
                guided = u + 5.0 * (c - u)
            else:
                guided = one.pipe.unet(x, t, encoder_hidden_states=c_text).sample
            x = scheduler.step(guided, t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("gate", "kept"), [(3, 3), (0.5, 4), (1.0, STEPS), (STEPS, STEPS)])
def test_rows_sent_to_the_network(case, gate, kept):
    recorder = Recorder()
    one = case("sd")
    one.call(accelerate(one.pipe, [CFGCutoff(gate=gate), recorder]))
    assert recorder.rows == [4] * kept + [2] * (STEPS - kept)
    assert recorder.boundaries == {kept}


def test_controlnet_is_cut_too(case):
    one = case("controlnet")
    rows = []
    handle = one.pipe.controlnet.conv_in.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        one.call(accelerate(one.pipe, [CFGCutoff(gate=3)]))
    finally:
        handle.remove()
    assert rows == [4] * 3 + [2] * (STEPS - 3)


def test_without_guidance_there_is_nothing_to_cut(case):
    one = case("sd")
    with pytest.raises(UsageError, match="no guidance to cut off"):
        one.call(accelerate(one.pipe, [CFGCutoff(gate=3)]), guidance_scale=1.0)


@pytest.mark.parametrize("gate", [-1, -0.5, "late", True])
def test_bad_gate(gate):
    with pytest.raises(UsageError, match="gate"):
        CFGCutoff(gate=gate)


def test_gate_past_the_end(case):
    one = case("sd")
    with pytest.raises(UsageError, match="gate=9 is outside this run of 8 steps"):
        one.call(accelerate(one.pipe, [CFGCutoff(gate=9)]))
