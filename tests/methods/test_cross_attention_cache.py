"""What is stored, what is replayed, and when: against a slow loop that computes everything and overwrites."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import CFGCutoff, CrossAttentionCache, MixedResolution
from tests.support.tiny import STEPS, sd

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
MERGE = {
    "cond": lambda u, c: c,
    "ave": lambda u, c: 0.5 * u + 0.5 * c,
    "cfg": lambda u, c: u + 5.0 * (c - u),
}


def slow_reference(one, gate, fill="cond", fill_step="last_guided", text="cond"):
    """DDIM by hand; forward hooks keep the outputs of every attn2 at the fill step and put them in place afterwards."""
    arguments, scheduler, x = one.arguments([0, 1]), copy.deepcopy(one.pipe.scheduler), NOISE
    scheduler.set_timesteps(STEPS)
    u_text, c_text = arguments["negative_prompt_embeds"], arguments["prompt_embeds"]
    kept, now = {}, {"step": 0}

    def hook(module, args, output):
        late = fill_step == "first_unguided"
        if now["step"] == gate - 1 + late:
            kept[module] = output if late else MERGE[fill](*output.chunk(2))
        return kept[module] if now["step"] >= gate + late else None

    hooks = [m.register_forward_hook(hook) for name, m in one.pipe.unet.named_modules() if name.endswith("attn2")]
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            now["step"] = i
            if i < gate:
                u, c = one.pipe.unet(
                    torch.cat([x, x]), t, encoder_hidden_states=torch.cat([u_text, c_text])
                ).sample.chunk(2)
                prediction = u + 5.0 * (c - u)
            else:
                alone = c_text if text == "cond" else u_text
                prediction = one.pipe.unet(x, t, encoder_hidden_states=alone).sample
            x = scheduler.step(prediction, t, x).prev_sample
    for handle in hooks:
        handle.remove()
    return x


@pytest.mark.parametrize("gate", [1, 5])
@pytest.mark.parametrize("fill", MERGE)
def test_equals_a_slow_reference(fill, gate):
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [CrossAttentionCache(gate=gate, fill=fill)]), latents=NOISE)
    torch.testing.assert_close(ours, slow_reference(one, gate, fill), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"fill_step": "first_unguided"}, {"text": "uncond"}], ids=str)
def test_other_options_equal_a_slow_reference(options):
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [CrossAttentionCache(gate=3, **options)]), latents=NOISE)
    torch.testing.assert_close(ours, slow_reference(one, 3, **options), rtol=1e-5, atol=1e-5)


def test_which_text_goes_on_matters_where_text_is_read_elsewhere(case):
    """Stable Diffusion reads text in cross-attention alone; SDXL also adds pooled text to the time embedding."""

    def images(name, text):
        one = case(name)
        return one.call(accelerate(one.pipe, [CrossAttentionCache(gate=3, text=text)]))

    assert torch.equal(images("sd", "cond"), images("sd", "uncond"))
    assert not torch.equal(images("sdxl", "cond"), images("sdxl", "uncond"))


def runs_of_attn2(one, methods, **changes):
    """Rows of every call of one cross-attention that was really computed."""
    rows = []
    module = one.pipe.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q")
    handle = module.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    try:
        one.call(accelerate(one.pipe, methods), **changes)
    finally:
        handle.remove()
    return rows


def test_nothing_is_computed_after_the_gate(case):
    assert runs_of_attn2(case("sd"), [CrossAttentionCache(gate=3)]) == [4, 4, 4]


def test_the_first_unguided_step_computes_one_branch_more(case):
    assert runs_of_attn2(case("sd"), [CrossAttentionCache(gate=3, fill_step="first_unguided")]) == [4, 4, 4, 2]


def test_a_later_switch_recomputes_once_for_one_branch(case):
    assert runs_of_attn2(case("sd"), [MixedResolution(switch=5), CrossAttentionCache(gate=3)]) == [4, 4, 4, 2]


def test_without_cutoff_both_branches_go_on(case):
    one = case("sd")
    assert runs_of_attn2(one, [CrossAttentionCache(gate=3, cutoff=False)]) == [4, 4, 4]
    driver = accelerate(one.pipe, [CrossAttentionCache(gate=3, cutoff=False)])
    one.call(driver)
    assert driver.counts["network rows"] == 4 * STEPS


def test_the_cut_off_alone_is_the_same_as_the_method_of_that_name(case):
    """With nothing to replay yet (gate 0) the cached run computes attn2 at step 0 and then never again."""
    one = case("sd")
    assert runs_of_attn2(one, [CrossAttentionCache(gate=0)]) == [2]
    both = accelerate(one.pipe, [CFGCutoff(gate=4), CrossAttentionCache(gate=4)])
    assert torch.equal(one.call(both), one.call(accelerate(one.pipe, [CrossAttentionCache(gate=4)])))


def test_without_guidance_the_text_is_still_dropped(case):
    assert runs_of_attn2(case("sd"), [CrossAttentionCache(gate=3, fill="ave")], guidance_scale=1.0) == [2, 2, 2]


def test_video_keeps_its_second_self_attention(case):
    """AnimateDiff's motion modules call a self-attention `attn2` too; only text cross-attention is cached."""
    claims = CrossAttentionCache().claims(case("animatediff").pipe.unet)
    assert claims
    assert not any("motion_modules" in name for name in claims)


@pytest.mark.parametrize("name", ["dit", "sd3", "deepfloyd_if"])
def test_refused_where_cross_attention_is_not_apart(case, name):
    with pytest.raises(UsageError, match="no separate cross-attention"):
        accelerate(case(name).pipe, [CrossAttentionCache()])


@pytest.mark.parametrize(
    "options",
    [
        {"fill": "mean"},
        {"fill": "ave", "cutoff": False},
        {"text": "uncond", "cutoff": False},
        {"fill": "ave", "fill_step": "first_unguided"},
        {"text": "uncond", "fill_step": "first_unguided"},
        {"gate": -1},
        {"cutoff": "no"},
    ],
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        CrossAttentionCache(**options)
