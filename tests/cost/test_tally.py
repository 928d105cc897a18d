"""Where the MACs go: parts, steps, groups. They sum to the total, and the total is that of torch's own counter."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from postdiff import accelerate
from postdiff.cost.macs import CONVENTIONS, GROUPS, grouped, tally
from postdiff.cost.on_meta import Seen
from postdiff.cost.paper_values import one_branch
from postdiff.cost.tally import Tally, Work
from postdiff.methods import CFGCutoff, CrossAttentionCache, DeepCache, ToMe
from tests.support.snapshot import snapshot

STEPS = 3


def counted_by_torch(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("family", "methods"),
    [
        ("sd", []),
        ("sd", [DeepCache(interval=2), CrossAttentionCache(gate=2), ToMe(0.5)]),
        ("sdxl", [DeepCache(interval=2, restarts=[1])]),
        ("pixart_alpha", [CrossAttentionCache(gate=2)]),
        ("controlnet", [CFGCutoff(gate=2)]),
        ("sd3", []),
        ("sana", []),
        ("text_to_video", [DeepCache(interval=2)]),
    ],
)
def test_sums_over_steps_and_groups_are_the_total(case, family, methods):
    one = case(family)
    fast = accelerate(one.pipe, methods)

    def call():
        one.call(fast, ids=[0], num_inference_steps=STEPS)

    found = tally(one.pipe, call)
    assert found.steps == STEPS
    for convention in CONVENTIONS:
        total = found.macs()[convention]
        assert total > 0
        assert sum(found.macs("denoiser", step)[convention] for step in range(STEPS)) == total
        assert sum(found.macs("denoiser", group=group)[convention] for group in GROUPS) == total
    assert found.macs()["all"] == counted_by_torch(call)


def test_a_whole_call_of_images_by_part(case):
    one = case("sd")
    found = tally(one.pipe, lambda: one.call(one.pipe, ids=[0], num_inference_steps=1, output_type="pt"))
    assert found.work() == found.work("denoiser") + found.work("vae")
    assert found.macs("vae", group="resnets")["dense"] > 0


def test_groups_of_a_step_before_and_after_the_gate(case):
    """The cache spares cross-attention alone; guidance off halves the rest, which is the same per row."""
    one = case("sd")
    fast = accelerate(one.pipe, [CrossAttentionCache(gate=2)])
    found = tally(one.pipe, lambda: one.call(fast, ids=[0], num_inference_steps=STEPS))
    assert [found.macs("denoiser", step, "cross-attention")["all"] > 0 for step in range(STEPS)] == [True, True, False]
    for group in ("resnets", "self-attention", "feed-forward", "other"):
        assert found.work("denoiser", 0, group) == found.work("denoiser", 2, group) * 2 != Work()


def test_groups_by_name_and_kind(case):
    unet = dict(grouped(case("sd").pipe.unet))
    named = {name: unet.get(module) for name, module in case("sd").pipe.unet.named_modules()}
    assert {group for name, group in named.items() if ".resnets." in name and group} == {"resnets"}
    transformer = case("pixart_alpha").pipe.transformer
    groups = dict(grouped(transformer))
    block = transformer.transformer_blocks[0]
    assert [groups[module] for module in (block.attn1, block.attn2, block.ff)] == [
        "self-attention",
        "cross-attention",
        "feed-forward",
    ]


def test_the_second_self_attention_of_video_is_not_text(case):
    groups = dict(grouped(case("text_to_video").pipe.unet))
    temporal = [
        groups[module]
        for name, module in case("text_to_video").pipe.unet.named_modules()
        if "temp_attentions" in name and name.endswith("attn2")
    ]
    assert temporal and set(temporal) == {"self-attention"}


def test_counting_leaves_no_trace(case):
    one = case("controlnet")
    one.call(one.pipe, num_inference_steps=1)
    before, keys = snapshot(one.pipe), list(vars(one.pipe.scheduler))
    tally(one.pipe, lambda: one.call(one.pipe, num_inference_steps=1))
    assert snapshot(one.pipe) == before

    def breaks():
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        tally(one.pipe, breaks)
    assert snapshot(one.pipe) == before
    assert list(vars(one.pipe.scheduler)) == keys


def test_one_branch_is_half_of_a_guided_step_and_all_of_one_without():
    work = Work(10, 12, 14)
    cells = {("denoiser", 0, "other"): work, ("denoiser", 1, "other"): work}
    cells |= {("text_encoder", 0, "other"): work, ("vae", 0, "resnets"): work}
    found = one_branch(Tally(cells, 2), Seen(branches={0: 2, 1: 1}, prompts=2))
    assert found.work("denoiser", 0) == found.work("text_encoder") == Work(5, 6, 7)
    assert found.work("denoiser", 1) == found.work("vae") == work


def test_work_outside_all_parts_is_in_the_total():
    net = nn.Linear(3, 4, bias=False)
    found = tally(SimpleNamespace(components={}), lambda: net(torch.zeros(2, 3)))
    assert found.macs()["dense"] == 24
    assert found.macs("denoiser")["dense"] == 0
