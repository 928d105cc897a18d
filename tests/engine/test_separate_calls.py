"""Pipelines that call the network once a guidance branch, and latents packed into tokens."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, QwenImagePipeline

from postdiff import accelerate
from postdiff.engine import packing, token_grid
from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family, family_of
from postdiff.engine.grid import resize
from postdiff.engine.intercept import intercept
from postdiff.engine.layouts import layout_of
from postdiff.methods import (
    FORA,
    TGATE,
    CFGCutoff,
    CrossAttentionCache,
    FirstBlockCache,
    GuidanceInterval,
    GuidedChannels,
    MixedResolution,
)
from tests.support import modern
from tests.support.snapshot import snapshot
from tests.support.tiny import STEPS

CASES = {
    "flux": modern.flux,
    "flux_cfg": lambda: modern.flux(true_cfg=True),
    "qwen_image": modern.qwen_image,
    "cogview4": modern.cogview4,
    "wan": modern.wan,
}
TWO_CALLS = ("flux_cfg", "qwen_image", "cogview4", "wan")
# How a run without guidance is asked for.
UNGUIDED = {
    "flux_cfg": {"true_cfg_scale": 1.0},
    "qwen_image": {"true_cfg_scale": 1.0},
    "cogview4": {"guidance_scale": 1.0},
    "wan": {"guidance_scale": 1.0},
}


@pytest.fixture(scope="module")
def built():
    cases = {name: build() for name, build in CASES.items()}
    for case in cases.values():
        case.pipe.set_progress_bar_config(disable=True)
    return cases


@pytest.mark.parametrize("name", CASES)
def test_the_empty_driver_is_the_pipeline(built, name):
    case = built[name]
    expected = case.call(case.pipe)
    before = snapshot(case.pipe)
    fast = accelerate(case.pipe)
    assert torch.equal(case.call(fast), expected)
    assert fast.counts["network calls"] == STEPS * (2 if name in TWO_CALLS else 1)
    assert snapshot(case.pipe) == before
    assert torch.equal(case.call(case.pipe), expected)


@pytest.mark.parametrize("name", TWO_CALLS)
def test_a_cut_branch_is_not_computed(built, name):
    case = built[name]
    fast = accelerate(case.pipe, [CFGCutoff(gate=3)])
    cut = case.call(fast)
    assert fast.counts["network calls"] == STEPS + 3
    assert not torch.equal(cut, case.call(case.pipe))
    # Cut from the beginning it is a run without guidance, up to the rounding of c + w (c - c).
    never = case.call(accelerate(case.pipe, [CFGCutoff(gate=0)]))
    torch.testing.assert_close(never, case.call(case.pipe, **UNGUIDED[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TWO_CALLS)
def test_caches_keep_the_branches_apart(built, name):
    """A cache that mixed them up would replay one branch's features for the other: guidance would vanish."""
    case = built[name]
    seen = []

    def watch(forward, *args, **kwargs):
        output = forward(*args, **kwargs)
        seen.append((output[0] if isinstance(output, tuple) else output).clone())
        return output

    network = case.pipe.transformer
    block = (network.transformer_blocks if hasattr(network, "transformer_blocks") else network.blocks)[-1]
    attention = getattr(block, "attn1", None) or block.attn
    with intercept(attention, "forward", watch):
        case.call(accelerate(case.pipe, [FORA(interval=STEPS)]))
    assert len(seen) == 2, "computed once for each branch"
    assert not torch.equal(*seen)


@pytest.mark.parametrize("name", ["flux", "qwen_image", "cogview4", "wan"])
def test_low_resolution_is_a_run_at_the_low_size(built, name):
    """What the network sees in the low phase is what it would see in a small run from the same latents."""
    case = built[name]
    pipe, old = case.pipe, case.pipe.scheduler
    if isinstance(old, FlowMatchEulerDiscreteScheduler):  # a shift that depends on the size is the full size's here
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def record(into):
        def around(forward, *args, **kwargs):
            into.append(
                {k: v for k, v in kwargs.items() if k in ("hidden_states", "timestep", "img_ids", "img_shapes")}
            )
            if "target_size" in kwargs:  # CogView4 is told sizes in pixels, which are the full ones in a low phase
                kwargs |= dict.fromkeys(("original_size", "target_size"), torch.tensor([[128.0, 96.0]] * 2))
            return forward(*args, **kwargs)

        return intercept(pipe.transformer, "forward", around)

    try:
        ours, native = [], []
        with record(ours):
            case.call(accelerate(pipe, [MixedResolution(beta=0.5, switch=STEPS - 1)]))
        with record(native):
            case.call(pipe)
        packed = family_of(pipe).packed
        first = native[0]["hidden_states"]
        latents = packing.unpack(first, (16, 12)) if packed else first
        low = resize(latents, (8, 6), block=packing.SIDE if packed else 1)
        native.clear()
        with record(native):
            case.call(pipe, height=64, width=48, latents=packing.pack(low) if packed else low)
    finally:
        pipe.scheduler = old
    calls = (STEPS - 1) * len(ours) // STEPS
    assert calls
    for mine, theirs in list(zip(ours, native, strict=True))[:calls]:
        assert mine.get("img_shapes") == theirs.get("img_shapes")
        for key in ("hidden_states", "timestep", "img_ids"):
            if key in mine:
                torch.testing.assert_close(mine[key], theirs[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [FluxPipeline, QwenImagePipeline])
def test_packing_is_the_pipelines_own(cls):
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(packing.pack(latents), cls._pack_latents(latents, 2, 4, 8, 6))
    assert torch.equal(packing.unpack(packing.pack(latents), (8, 6)), latents)


def test_places_of_tokens_are_looked_at_once_a_call_and_never_for_nobody(built, monkeypatch):
    """On a GPU whoever looks waits for it."""
    looked, look = [], token_grid.own_tokens
    monkeypatch.setattr(token_grid, "own_tokens", lambda *given: looked.append(1) or look(*given))
    case = built["flux"]
    case.call(accelerate(case.pipe))
    assert not looked
    case.call(accelerate(case.pipe, [FORA()]))
    assert len(looked) == 1


def test_other_places_of_tokens_are_seen():
    layout = layout_of(Family("transformer", layout="tokens", side=2), methods=True)
    tokens = torch.zeros(1, 6, 16)

    def size(**told):
        return tuple(layout.opened(tokens, told).shape[-2:])

    wide, high = (
        torch.cartesian_prod(torch.zeros(1).long(), torch.arange(h), torch.arange(w)) for h, w in ((2, 3), (3, 2))
    )
    assert size(img_ids=wide) == size(img_ids=wide) == (4, 6)
    assert size(img_ids=high) == (6, 4)
    high.copy_(wide)
    assert size(img_ids=high) == (4, 6)
    assert size(img_shapes=[[(1, 1, 2), (1, 2, 2)]]) == (2, 4)
    assert size(img_shapes=[(1, 3, 2)] * 2) == (6, 4)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        (TGATE(), "computes one by one"),
        (CrossAttentionCache(gate=4, fill="ave"), "use 'cond'"),
        (GuidedChannels(), "computes them one by one"),
    ],
)
def test_what_needs_both_branches_at_once_is_refused(built, method, line):
    case = built["wan"]
    with pytest.raises(UsageError, match=line):
        case.call(accelerate(case.pipe, [method]))


def test_only_the_branch_that_comes_first_can_go_on_alone(built):
    case = built["wan"]
    with pytest.raises(UsageError, match="'cond' first"):
        case.call(accelerate(case.pipe, [CrossAttentionCache(gate=4, text="uncond")]))


def test_methods_stack_on_packed_latents(built):
    case = built["flux_cfg"]
    fast = accelerate(
        case.pipe, [MixedResolution(beta=0.5, switch=4), GuidanceInterval(low=0.3, high=6.0), FirstBlockCache(0.3)]
    )
    first = case.call(fast)
    assert torch.isfinite(first).all() and torch.equal(first, case.call(fast))
    assert fast.counts["network calls"] < 2 * STEPS
