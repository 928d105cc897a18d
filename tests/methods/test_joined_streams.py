"""Chains of newer networks, against hooks that overwrite: what every section of a chain added is replayed in its place.

A section is a row of blocks through which the same streams go. Where text and image are joined, the next one begins.
"""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.family import family_of
from postdiff.engine.intercept import intercept
from postdiff.methods import FORA, CFGCutoff, DBCache, FirstBlockCache, MagCache
from tests.support.cases import encoded_text
from tests.support.tiny import build
from tests.support.twins import TWINS

# {twin: lists of blocks that are a section each, with the arguments that these give out, in order}.
SECTIONS = {
    "z_image": {"layers": ("x",)},
    "z_image_controlnet": {"layers": ("x",)},
    "kandinsky5_t2i": {"visual_transformer_blocks": ("visual_embed",)},
    "lumina2": {"layers": ("hidden_states",)},
    "krea2": {"transformer_blocks": ("hidden_states",)},
    "ltx2": {"transformer_blocks": ("hidden_states", "audio_hidden_states")},
    "hunyuan_video15": {"transformer_blocks": ("hidden_states", "encoder_hidden_states")},
    "flux2": {
        "transformer_blocks": ("encoder_hidden_states", "hidden_states"),
        "single_transformer_blocks": ("hidden_states",),
    },
    "chroma": {
        "transformer_blocks": ("encoder_hidden_states", "hidden_states"),
        "single_transformer_blocks": ("hidden_states",),
    },
    "aura_flow": {
        "joint_transformer_blocks": ("encoder_hidden_states", "hidden_states"),
        "single_transformer_blocks": ("hidden_states",),
    },
    "hidream": {
        "double_stream_blocks": ("hidden_states", "encoder_hidden_states"),
        "single_stream_blocks": ("hidden_states",),
    },
}
FEED_FORWARDS = ("feed_forward", "ff", "ff_i", "ff_t", "ff_context")
COMPUTED = (0, 2)  # steps
# Its ratios tell of an error at the third step alone, which is computed for that.
REPLAYED = MagCache(ratios=[1.0, 1.0, 0.5, 1.0], threshold=0.1, retention=0.0, most=9)


def given_to(block, args, kwargs):
    names = type(block).forward.__code__.co_varnames[1:]
    return dict(zip(names, args, strict=False)) | kwargs


def overwritten(twin, pieces):
    """What the bare pipeline generates where outputs are x_t + (y_k - x_k), or y_k for a module without names.

    Args:
        pieces: (first module, last module, names of what the first is given that the last gives out) of each.
    """
    pipe, run = twin.pipe, SimpleNamespace(step=0, call=0)
    kept = {}  # {(piece, call of the step): (x, y)}
    network = getattr(pipe, family_of(pipe).network)

    def count(module, args, kwargs):
        run.call += 1

    def enter(piece, names):
        def hook(module, args, kwargs):
            given = given_to(module, args, kwargs)
            piece.x = [given[name].clone() for name in names]

        return hook

    def leave(piece):
        def hook(module, args, output):
            y = [output] if isinstance(output, torch.Tensor) else list(output)
            key = id(piece), run.call
            if run.step in COMPUTED:
                kept[key] = piece.x, [each.clone() for each in y]
                return None
            xs, ys = kept[key]
            now = piece.x or [0.0] * len(y)
            then = xs or [0.0] * len(y)
            found = [x + (after - before) for x, before, after in zip(now, then, ys, strict=True)]
            return found[0] if isinstance(output, torch.Tensor) else tuple(found)

        return hook

    def step(forward, *args, **kwargs):
        run.step, run.call = run.step + 1, 0
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(intercept(pipe.scheduler, "step", step))
        stack.callback(network.register_forward_pre_hook(count, with_kwargs=True).remove)
        for first, last, names in pieces:
            piece = SimpleNamespace(x=[])
            if names:
                stack.callback(first.register_forward_pre_hook(enter(piece, names), with_kwargs=True).remove)
            stack.callback(last.register_forward_hook(leave(piece)).remove)
        return twin.call(pipe)


def network_of(twin):
    return getattr(twin.pipe, family_of(twin.pipe).network)


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_of_a_chain_are_replayed_one_by_one(name):
    twin = TWINS[name]()
    stacks = [(getattr(network_of(twin), stack), names) for stack, names in SECTIONS[name].items()]
    expected = overwritten(twin, [(blocks[0], blocks[-1], names) for blocks, names in stacks])
    bare = twin.call(twin.pipe)
    fast = accelerate(twin.pipe, [REPLAYED])
    found = twin.call(fast)
    assert fast.counts["mag_cache rows replayed"] == fast.counts["mag_cache rows computed"]
    assert not torch.allclose(found, bare, rtol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(twin.call(twin.pipe), bare)


@pytest.mark.parametrize("name", ["z_image", "kandinsky5_t2i", "lumina2", "hidream", "flux2", "aura_flow"])
def test_modules_of_newer_blocks_are_replayed(name):
    twin = TWINS[name]()
    modules = [
        module
        for path, module in network_of(twin).named_modules()
        if (own := path.rpartition(".")[2]) in FEED_FORWARDS
        or own in ("attn", "attn1", "attention", "self_attention", "cross_attention")
    ]
    expected = overwritten(twin, [(module, module, ()) for module in modules])
    fast = accelerate(twin.pipe, [FORA(interval=2)])
    torch.testing.assert_close(twin.call(fast), expected, rtol=1e-4, atol=1e-5)
    assert fast.counts["fora hits"] == fast.counts["fora misses"] >= 2 * len(modules)


@pytest.mark.parametrize("name", ["flux2", "chroma", "hidream", "aura_flow"])
def test_one_decision_holds_for_all_sections(name):
    """The first block of another list decides, and both images of a batch are what they are alone."""
    twin = TWINS[name]()
    fast = accelerate(twin.pipe, [FirstBlockCache(threshold=9e9)])
    together = twin.call(fast)
    assert fast.counts["first_block_cache rows replayed"] == 3 * fast.counts["first_block_cache rows computed"]
    alone = torch.cat([twin.call(fast, [i]) for i in twin.ids])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_a_front_over_which_streams_are_joined_is_refused():
    twin = TWINS["chroma"]()
    with pytest.raises(UsageError, match="text and image are joined within the first 3 blocks.*a smaller front"):
        twin.call(accelerate(twin.pipe, [DBCache(front=3, threshold=0.5, warmup=0)]))


@pytest.mark.parametrize("method", [FirstBlockCache(threshold=9e9), FORA(interval=9)])
def test_texts_that_are_filled_up_to_the_longest_beside_them(method):
    """A short prompt is filled up to a long negative one, and no longer once guidance has ended: nothing kept fits."""
    twin = TWINS["z_image"]()
    long = {"negative_prompt_embeds": [torch.randn(40, 32, generator=torch.Generator().manual_seed(3))]}
    fast = accelerate(twin.pipe, [CFGCutoff(gate=2), method])
    assert torch.isfinite(twin.call(fast, [0], **long)).all()
    if isinstance(method, FORA):
        # Only refining the noise is of one length; at the third step all else is computed again.
        assert fast.counts["fora misses"] == 10 + 8 and fast.counts["fora hits"] == 10 + 2 + 10
    else:
        assert fast.counts["first_block_cache rows computed"] == fast.counts["first_block_cache rows replayed"] == 2 + 1


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("cogview4", ("hidden_states", "encoder_hidden_states")),
        ("qwen_image", ("encoder_hidden_states", "hidden_states")),
    ],
)
def test_streams_of_one_length_are_told_by_what_the_next_block_is_given(name, names):
    """Text as long as the image, which blocks of the one network give out last, and those of the other first."""
    case = build(name)
    tokens, whole = 8 * 6, case.arguments

    def arguments(ids):
        masks = {key: torch.ones(len(ids), tokens, dtype=torch.int64) for key in whole(ids) if key.endswith("_mask")}
        return {**whole(ids), **encoded_text(ids, tokens), **masks, "num_inference_steps": 4}

    case.arguments = arguments
    blocks = case.pipe.transformer.transformer_blocks
    expected = overwritten(case, [(blocks[0], blocks[-1], names)])
    found = case.call(accelerate(case.pipe, [REPLAYED]))
    assert not torch.allclose(found, case.call(case.pipe), rtol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
