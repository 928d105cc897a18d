"""ToMe against its authors' package, and what must hold of any merging."""

import pytest
import tomesd
import torch

from postdiff import accelerate
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from postdiff.methods import MixedResolution, ToMe
from postdiff.methods.tome.token_merging import TokenMerging, means_in_order
from tests.support.tiny import STEPS, build, sd, unet


def official(name, rand=False, seed=None, **options):
    one = build(name)  # a pipeline of its own: the patch changes the classes of its blocks
    tomesd.apply_patch(getattr(one.pipe, "unet", None) or one.pipe.transformer, use_rand=rand, **options)
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)  # its generator is a fork of the global one at the first merge
        return one.call(one.pipe)


@pytest.mark.parametrize("max_downsample", [1, 2])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", ["sd_ddim", "sd_dpm++", "sd_euler"])
def test_equals_the_official_package(case, baseline, name, ratio, max_downsample):
    one = case(name)
    ours = one.call(accelerate(one.pipe, [ToMe(ratio, max_downsample, rand=False)]))
    assert torch.equal(ours, official(name, ratio=ratio, max_downsample=max_downsample))
    assert not torch.equal(ours, baseline(name))


@pytest.mark.parametrize("seed", [0, 11])
@pytest.mark.parametrize("max_downsample", [1, 2])
def test_equals_the_official_package_with_the_same_draws(case, max_downsample, seed):
    one = case("sd_ddim")
    ours = one.call(accelerate(one.pipe, [ToMe(max_downsample=max_downsample, seed=seed)]))
    assert torch.equal(ours, official("sd_ddim", rand=True, seed=seed, max_downsample=max_downsample))
    assert not torch.equal(ours, one.call(accelerate(one.pipe, [ToMe(max_downsample=max_downsample, rand=False)])))


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("sd_ddim", {"sx": 4, "sy": 2, "ratio": 0.8}, {}),
        ("sd_ddim", {"sx": 3, "sy": 5}, {}),  # cells that do not divide the grid
        ("sd_ddim", {"merge_cross_attention": True}, {"merge_crossattn": True}),
        ("sd_ddim", {"merge_attention": False, "merge_mlp": True}, {"merge_attn": False, "merge_mlp": True}),
        ("sdxl", {"max_downsample": 2}, {}),
        ("controlnet", {}, {}),
        ("dit", {}, {"max_downsample": 2}),  # the package counts a patch as downsampling
    ],
    ids=str,
)
def test_other_options_and_networks(case, name, options, theirs):
    one = case(name)
    ours = one.call(accelerate(one.pipe, [ToMe(**options, rand=False)]))
    shared = {key: value for key, value in options.items() if not key.startswith("merge_")}
    assert torch.equal(ours, official(name, **{"ratio": 0.5, **shared, **theirs}))


@pytest.mark.parametrize("cell", [(2, 2), (3, 2), (5, 7)])
@pytest.mark.parametrize("seed", [None, 0])
def test_merging_and_putting_apart(cell, seed):
    tokens = torch.randn(3, 6 * 7, 5, generator=torch.Generator().manual_seed(1))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    merging = TokenMerging(tokens, (6, 7), cell, 0.5, generator)
    merged = merging.merge(tokens)
    assert merged.shape == (3, 21, 5)
    labels = torch.arange(21.0).expand(3, 21)[..., None]
    places = merging.unmerge(labels).long()[..., 0]
    for row in range(3):
        assert set(places[row].tolist()) == set(range(21)), "a merged token went nowhere"
        for place in range(21):
            members = tokens[row, places[row] == place]
            torch.testing.assert_close(merged[row, place], members.mean(0))
    torch.testing.assert_close(merging.merge(merging.unmerge(merged)), merged)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_a_gpu_computes_is_the_mean_too(dtype):
    """Of some destinations, of none, and of all tokens in one row."""
    drawn = torch.Generator().manual_seed(0)
    destinations, gone = (torch.randn(2, count, 5, generator=drawn).to(dtype) for count in (9, 40))
    into = torch.stack([torch.randint(6, (40,), generator=drawn), torch.full((40,), 3)])
    found = means_in_order(destinations, into, gone)
    assert found.dtype == dtype
    for row in range(2):
        for place in range(9):
            members = torch.cat([destinations[row, place : place + 1], gone[row, into[row] == place]])
            expected = members.float().mean(0).to(dtype)
            torch.testing.assert_close(found[row, place], expected, atol=8 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize(("grid", "ratio"), [((6, 7), 0.0), ((1, 1), 0.5), ((1, 8), 0.5)])
def test_nothing_to_merge(grid, ratio):
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    merging = TokenMerging(tokens, grid, (2, 2), ratio)
    assert merging.merged == 0
    assert merging.merge(tokens) is tokens
    assert merging.unmerge(tokens) is tokens


def test_every_token_of_a_cell_is_drawn():
    tokens = torch.randn(1, 64, 3)
    generator = torch.Generator().manual_seed(0)
    drawn = [TokenMerging(tokens, (8, 8), (2, 2), 0.5, generator)._destinations for _ in range(40)]
    times = torch.stack(drawn).flatten().bincount(minlength=64).float()
    assert times.min() > 0
    assert times.sum() == 40 * 16
    assert abs(times.mean() - 10) < 1e-6
    assert times.max() < 25


@pytest.mark.parametrize("rand", [True, False])
@pytest.mark.parametrize("ids", [[2], [0, 1, 2]], ids=str)
def test_an_odd_batch_draws_as_an_even_one(case, ids, rand):
    """Rows of one block call share the draw, so the pattern is the same for any batch."""
    one = case("lcm")
    driver = accelerate(one.pipe, [ToMe(rand=rand)])
    together, alone = one.call(driver, [0, 1, 2, 3])[2:3], one.call(driver, ids)[-1:]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-4)


def rows_into_attention(one, methods):
    """Tokens that reach the query projection of the outermost self-attention, step by step."""
    network = getattr(one.pipe, "unet", None) or one.pipe.transformer
    block = "down_blocks.0.attentions.0." if hasattr(network, "down_blocks") else ""
    tokens = []
    handle = network.get_submodule(f"{block}transformer_blocks.0.attn1.to_q").register_forward_hook(
        lambda module, args, output: tokens.append(output.shape[1])
    )
    try:
        one.call(accelerate(one.pipe, methods))
    finally:
        handle.remove()
    return tokens


def test_mixed_resolution(case):
    tokens = rows_into_attention(case("sd"), [MixedResolution(beta=0.5, switch=3), ToMe(ratio=0.25)])
    assert tokens == [48] * 3 + [192] * (STEPS - 3)


@pytest.mark.parametrize("beta", [0.04, 0.1, 0.3, 0.7])
def test_odd_grids(case, beta):
    one = case("sd")
    stack = [MixedResolution(beta=beta, switch=4), ToMe(ratio=0.5, max_downsample=8)]
    assert torch.isfinite(one.call(accelerate(one.pipe, stack))).all()


@pytest.mark.parametrize("name", ["dit", "pixart_alpha"])
def test_levels_are_counted_from_the_finest_tokens(case, name):
    """A patch of 2 latent pixels is one token: 16 x 16 latents make 64 tokens, all of them of level 0."""
    assert rows_into_attention(case(name), [ToMe(ratio=0.5)]) == [32] * STEPS


def test_macs_fall_with_the_ratio(case):
    one = case("sd")
    costs = [
        count_macs(one.pipe, lambda ratio=ratio: one.call(accelerate(one.pipe, [ToMe(ratio)])))["denoiser"]
        for ratio in (0.0, 0.25, 0.5, 0.75)
    ]
    for convention in costs[0]:
        values = [cost[convention] for cost in costs]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 4


@pytest.mark.parametrize("name", ["sd3", "sana", "hunyuan", "deepfloyd_if"])
def test_refused_without_a_plain_token_grid(case, name):
    with pytest.raises(UsageError, match="ToMe needs transformer blocks on a plain grid of image tokens; .* has none"):
        accelerate(case(name).pipe, [ToMe()])


def test_refused_where_no_level_is_reached():
    one = sd()
    one.pipe.unet = unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    with pytest.raises(UsageError, match="max_downsample=1 reaches no transformer block of .*; use 2 or more"):
        accelerate(one.pipe, [ToMe()])
    accelerate(one.pipe, [ToMe(max_downsample=2)])


def test_refused_without_the_cross_attention_asked_for(case):
    with pytest.raises(UsageError, match="no separate cross-attention"):
        accelerate(case("dit").pipe, [ToMe(merge_cross_attention=True)])


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.76},
        {"ratio": -0.1},
        {"ratio": 0.6, "sx": 2, "sy": 1},
        {"max_downsample": 3},
        {"sx": 0},
        {"sy": 0},
        {"merge_attention": False},
        {"rand": "yes"},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        ToMe(**options)
