"""ToDo against its formula written out, and where it acts."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from postdiff.methods import MixedResolution, ToDo
from tests.support.tiny import STEPS, sd, unet

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
LEVELS = {"down_blocks.0": 0, "down_blocks.1": 1, "mid_block": 2, "up_blocks.1": 1, "up_blocks.2": 0}


def thinned(tokens, side, factor):
    """Every factor-th token down and across; nearest-exact takes the one at the middle of each cell."""
    kept = [int((i + 0.5) * side / (side // factor)) for i in range(side // factor)]
    return torch.stack([tokens[:, row * side + column] for row in kept for column in kept], dim=1)


def attention(module, x, y):
    """softmax(Q(x) K(y)^T / sqrt(d)) V(y), head by head, and the output projection."""
    out = []
    queries, keys, values = module.to_q(x), module.to_k(y), module.to_v(y)
    width = queries.shape[-1] // module.heads
    for head in range(module.heads):
        part = slice(head * width, (head + 1) * width)
        q, k, v = queries[..., part], keys[..., part], values[..., part]
        weights = torch.exp(q @ k.transpose(1, 2) / width**0.5)
        out.append(weights / weights.sum(-1, keepdim=True) @ v)
    return module.to_out[0](torch.cat(out, -1))


def slow_reference(one, factors):
    """DDIM by hand; forward hooks put the formula in the place of every self-attention."""
    arguments, scheduler, x = one.arguments([0, 1]), copy.deepcopy(one.pipe.scheduler), NOISE
    scheduler.set_timesteps(STEPS)
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    hooks = []
    for name, module in one.pipe.unet.named_modules():
        if not name.endswith("attn1"):
            continue
        [level] = [level for prefix, level in LEVELS.items() if name.startswith(prefix)]
        factor, side = factors[level] if level < len(factors) else 1, 16 // 2**level

        def formula(module, args, output, factor=factor, side=side):
            return attention(module, args[0], thinned(args[0], side, factor))

        hooks.append(module.register_forward_hook(formula))
    with torch.no_grad():
        for t in scheduler.timesteps:
            u, c = one.pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample.chunk(2)
            x = scheduler.step(u + 5.0 * (c - u), t, x).prev_sample
    for handle in hooks:
        handle.remove()
    return x


@pytest.mark.parametrize("factors", [[2], [4, 2], [1, 2], [3, 1, 2]], ids=str)
def test_equals_the_formula(factors):
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [ToDo(factors)]), latents=NOISE)
    expected = slow_reference(one, factors)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("factors", [[1], [], [1, 1, 1]], ids=str)
def test_factor_one_is_the_baseline(case, baseline, factors):
    one = case("sd")
    assert ToDo(factors).claims(one.pipe.unet) == []
    assert torch.equal(one.call(accelerate(one.pipe, [ToDo(factors)])), baseline("sd"))


def tokens_of(one, methods, block="down_blocks.0"):
    """(queries, keys) of one self-attention, step by step."""
    seen = {"to_q": [], "to_k": []}
    module = one.pipe.unet.get_submodule(f"{block}.attentions.0.transformer_blocks.0.attn1")
    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen[name].append(output.shape[1])
        )
        for name in seen
    ]
    try:
        one.call(accelerate(one.pipe, methods))
    finally:
        for handle in hooks:
            handle.remove()
    return list(zip(*seen.values(), strict=True))


def test_queries_keep_every_token(case):
    assert tokens_of(case("sd"), [ToDo([2])]) == [(256, 64)] * STEPS
    assert tokens_of(case("sd"), [ToDo([2])], "down_blocks.1") == [(64, 64)] * STEPS
    assert tokens_of(case("sd"), [ToDo([1, 4])], "up_blocks.1") == [(64, 4)] * STEPS


def test_mixed_resolution(case):
    tokens = tokens_of(case("sd"), [MixedResolution(beta=0.5, switch=3), ToDo([2])])
    assert tokens == [(64, 16)] * 3 + [(256, 64)] * (STEPS - 3)


@pytest.mark.parametrize("beta", [0.04, 0.1, 0.3, 0.7])
def test_odd_grids(case, beta):
    one = case("sd")
    stack = [MixedResolution(beta=beta, switch=4), ToDo([2, 3, 2])]
    assert torch.isfinite(one.call(accelerate(one.pipe, stack))).all()


def test_an_image_does_not_depend_on_its_batch(case):
    one = case("sd")
    driver = accelerate(one.pipe, [ToDo([2, 2])])
    together, alone = one.call(driver, [0, 1, 2])[2:], one.call(driver, [2])
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_video_keeps_its_attention_along_time(case):
    claims = ToDo().claims(case("animatediff").pipe.unet)
    assert claims
    assert not any("motion_modules" in name for name in claims)


def test_macs_fall_with_the_factor(case):
    one = case("sd")
    costs = [
        count_macs(one.pipe, lambda d=d: one.call(accelerate(one.pipe, [ToDo([d])])))["denoiser"] for d in (1, 2, 4)
    ]
    for convention in costs[0]:
        assert costs[0][convention] > costs[1][convention] > costs[2][convention]


@pytest.mark.parametrize("name", ["dit", "pixart_alpha", "sd3", "sana", "hunyuan"])
def test_transformers_are_refused(case, name):
    with pytest.raises(UsageError, match="ToDo needs a U-Net"):
        accelerate(case(name).pipe, [ToDo()])


def test_refused_without_a_plain_token_grid(case):
    with pytest.raises(UsageError, match="ToDo needs transformer blocks on a plain grid"):
        accelerate(case("deepfloyd_if").pipe, [ToDo()])


def test_refused_where_no_level_is_reached():
    one = sd()
    one.pipe.unet = unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    with pytest.raises(UsageError, match=r"factors=\[2, 1\] reach no transformer block of .*; use \[1, 2\]"):
        accelerate(one.pipe, [ToDo()])
    accelerate(one.pipe, [ToDo([1, 2])])


@pytest.mark.parametrize("factors", [[0], [2, -1], [1.5], 2], ids=str)
def test_bad_options(factors):
    with pytest.raises(UsageError, match="factors"):
        ToDo(factors)
