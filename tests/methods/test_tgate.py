"""T-GATE against a slow loop that computes everything and overwrites, after the authors' table of steps."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import TGATE, CrossAttentionCache, DeepCache, MixedResolution
from tests.support.recorder import Recorder
from tests.support.tiny import STEPS, sd

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
SETTINGS = [  # gate, self_attention_interval, fidelity_interval, warmup
    (5, 2, 1, 1),
    (6, 3, 2, 0),
    (7, 4, 3, 2),
    (3, 5, 1, 2),
    (2, 5, 2, 6),  # the gate comes before the end of the warm-up
    (4, 1, 1, 0),  # version 1
    (1, 1, 1, 0),
    (8, 3, 1, 1),  # guided to the end
]


def slow_reference(one, gate, own_interval, late_interval, warmup, text):
    """DDIM by hand. A forward hook sees what each attention computed and decides, row of the table by row."""
    arguments, scheduler, x = one.arguments([0, 1]), copy.deepcopy(one.pipe.scheduler), NOISE
    scheduler.set_timesteps(STEPS)
    uncond, cond = arguments["negative_prompt_embeds"], arguments["prompt_embeds"]
    stored, now = {}, {"step": 0}

    def hook(module, args, output):
        i = now["step"]
        if i == gate - 1:
            u, c = output.chunk(2)
            stored[module] = 0.5 * u + 0.5 * c
            return None
        if module.is_cross_attention:
            return stored[module] if i >= gate else None
        if i < warmup and i < gate:
            return None
        interval = own_interval if i < gate else late_interval
        if i == warmup < gate or i % interval == 0:
            stored[module] = output
            return None
        return stored[module]

    hooks = [
        module.register_forward_hook(hook)
        for name, module in one.pipe.unet.named_modules()
        if name.endswith(("attn1", "attn2"))
    ]
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            now["step"] = i
            if i < gate:
                both = one.pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([uncond, cond])).sample
                u, c = both.chunk(2)
                prediction = u + 5.0 * (c - u)
            else:
                prediction = one.pipe.unet(x, t, encoder_hidden_states=cond if text == "cond" else uncond).sample
            x = scheduler.step(prediction, t, x).prev_sample
    for handle in hooks:
        handle.remove()
    return x


@pytest.mark.parametrize("text", ["uncond", "cond"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_equals_a_slow_reference(setting, text):
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [TGATE(*setting, text=text)]), latents=NOISE)
    torch.testing.assert_close(ours, slow_reference(one, *setting, text), rtol=1e-5, atol=1e-5)


def computed(one, methods, child, **changes):
    """{step: rows} of the calls of one attention that were really computed."""
    driver, rows = accelerate(one.pipe, methods), {}
    module = one.pipe.unet.get_submodule(f"{BLOCK}.{child}.to_q")
    handle = module.register_forward_hook(
        lambda module, args, output: rows.update({driver.counts["network calls"] - 1: len(output)})
    )
    try:
        one.call(driver, **changes)
    finally:
        handle.remove()
    return rows


def test_what_is_computed_and_when(case):
    stack = [TGATE(gate=6, self_attention_interval=3, fidelity_interval=2, warmup=1)]
    assert computed(case("sd"), stack, "attn2") == dict.fromkeys(range(6), 4)
    assert computed(case("sd"), stack, "attn1") == {0: 4, 1: 4, 3: 4, 5: 4, 6: 2}


def test_version_one_leaves_self_attention_alone(case):
    one, version_one = case("sd"), TGATE(gate=3, self_attention_interval=1, warmup=0)
    assert not any(name.endswith("attn1") for name in version_one.claims(one.pipe.unet))
    assert list(computed(one, [version_one], "attn1")) == list(range(STEPS))


def test_version_one_with_the_conditional_text_is_the_cross_attention_cache(case):
    one = case("sd")
    ours = one.call(accelerate(one.pipe, [TGATE(gate=3, self_attention_interval=1, text="cond")]))
    assert torch.equal(ours, one.call(accelerate(one.pipe, [CrossAttentionCache(gate=3, fill="ave")])))


def test_one_branch_goes_on_after_the_gate(case):
    recorder, one = Recorder(), case("sd")
    one.call(accelerate(one.pipe, [TGATE(gate=3), recorder]))
    assert recorder.rows == [4] * 3 + [2] * (STEPS - 3)
    assert recorder.boundaries == {3}


def test_without_guidance_the_text_is_still_dropped(case):
    assert computed(case("sd"), [TGATE(gate=3)], "attn2", guidance_scale=1.0) == {0: 2, 1: 2, 2: 2}


def test_a_later_switch_recomputes_once_for_one_branch(case):
    rows = computed(case("sd"), [MixedResolution(switch=5), TGATE(gate=3)], "attn2")
    assert rows == {0: 4, 1: 4, 2: 4, 5: 2}


def test_with_one_branch_computed_its_prediction_is_the_x0_of_a_later_switch(case):
    one = case("sd")
    guided, conditional = (
        one.call(accelerate(one.pipe, [MixedResolution(switch=5, x0=x0), TGATE(gate=3)]))
        for x0 in ("guided", "conditional")
    )
    assert torch.equal(guided, conditional)


def test_what_deepcache_left_out_at_the_gate_is_taken_from_its_last_full_step(case):
    """Full steps 0, 3, 6; at gate - 1 = 4 the inner blocks do not run, yet their cross-attention is not done again."""
    driver = accelerate(case("sd").pipe, [DeepCache(interval=3, branch=0), TGATE(gate=5, self_attention_interval=1)])
    case("sd").call(driver)
    inner, outer = 6, 1
    assert driver.counts["tgate cross-attention misses"] == 2 * inner + 5 * outer
    assert driver.counts["tgate cross-attention hits"] == inner + 3 * outer


def test_controlnet_is_cut_too(case):
    one = case("controlnet")
    rows = []
    handle = one.pipe.controlnet.conv_in.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        one.call(accelerate(one.pipe, [TGATE(gate=3)]))
    finally:
        handle.remove()
    assert rows == [4] * 3 + [2] * (STEPS - 3)


def test_video_keeps_its_attention_along_time(case):
    claims = TGATE().claims(case("animatediff").pipe.unet)
    assert any(name.endswith("attn1") for name in claims)
    assert not any("motion_modules" in name for name in claims)


@pytest.mark.parametrize("name", ["dit", "sd3", "deepfloyd_if"])
def test_refused_where_cross_attention_is_not_apart(case, name):
    with pytest.raises(UsageError, match="no separate cross-attention"):
        accelerate(case(name).pipe, [TGATE()])


def test_gate_past_the_end(case):
    with pytest.raises(UsageError, match="gate=10 is outside this run of 8 steps"):
        case("sd").call(accelerate(case("sd").pipe, [TGATE(gate=10)]))


@pytest.mark.parametrize(
    "options",
    [{"gate": -1}, {"self_attention_interval": 0}, {"fidelity_interval": 0}, {"warmup": -1}, {"text": "negative"}],
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        TGATE(**options)
