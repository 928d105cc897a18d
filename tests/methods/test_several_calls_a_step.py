"""Networks that call a module several times within a step: chunked feed-forward, sliding windows, split inference."""

import functools
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import FORA, CFGCutoff, CrossAttentionCache, EncoderPropagation, TaylorSeer, ToMe
from tests.methods.test_in_place_consumers import CACHES
from tests.methods.test_properties import REFUSED
from tests.methods.test_slow_references import leaf
from tests.support import texts
from tests.support.tiny import build
from tests.support.tiny_presets import build_methods, preset

pytestmark = pytest.mark.slow


@contextmanager
def chunked(one, size, dim):
    network = getattr(one.pipe, "transformer", None) or one.pipe.unet
    network.enable_forward_chunking(chunk_size=size, dim=dim)
    try:
        yield network
    finally:
        for module in network.modules():  # what diffusers has for it is not on every network
            if getattr(module, "_chunk_size", None) is not None:
                module.set_chunk_feed_forward(None, 0)


def long_video(split=None):
    """AnimateDiff with FreeNoise: 8 frames in windows of 4; `split`: parts of the batch in rows."""
    one = build("animatediff", smallest=True)
    pipe = one.pipe
    pipe.register_modules(tokenizer=texts.clip_tokenizer(), text_encoder=texts.clip_text())
    pipe.enable_free_noise(context_length=4, context_stride=2)
    if split is not None:
        pipe.enable_free_noise_split_inference(spatial_split_size=split, temporal_split_size=split)
    plain = one.arguments

    def arguments(ids):
        given = {name: value for name, value in plain(ids).items() if "prompt" not in name}
        prompts = {0: "a red apple", 4: "a blue pear"}
        generator = torch.Generator().manual_seed(1)
        return {**given, "prompt": prompts, "negative_prompt": "bad", "num_frames": 8, "generator": generator}

    one.arguments = arguments
    return one


# Parts of one branch, of both, of all rows; tokens.
ON_SD3 = [(name, "sd3", *chunk) for name in ("fora", "taylor_seer", "mag_cache") for chunk in ((1, 0), (2, 0), (2, 1))]
CHUNKS = [
    ("fora", "text_to_video", 1, 0),
    ("fora", "text_to_video", 1, 1),
    ("taylor_seer", "text_to_video", 2, 0),
    ("deepcache", "text_to_video", 1, 1),
    ("fora", "sd3", 4, 0),
    ("fora", "hunyuan", 1, 0),
    ("tgate", "hunyuan", 1, 0),
    *ON_SD3,
]


def both_settings(one, name, bare):
    found = one.call(accelerate(one.pipe, build_methods(preset(name).methods)))
    assert torch.isfinite(found).all() and not torch.equal(found, bare)
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(preset(name).identity))), bare)
    return found


@pytest.mark.parametrize(("name", "family", "size", "dim"), CHUNKS)
def test_chunked_feed_forward(smallest, name, family, size, dim):
    """Outputs of chunks are replayed as those of whole layers are."""
    one, bare = smallest(family)
    whole = both_settings(one, name, bare)
    with chunked(one, size, dim):
        expected = one.call(one.pipe)
        torch.testing.assert_close(both_settings(one, name, expected), whole, rtol=1e-4, atol=1e-5)


@functools.cache
def video(split):
    one = long_video(split)
    return one, one.call(one.pipe, [0])


MIXING = ("tgate", "cross_attention_cache")
LONG = [(name, None) for name in CACHES if "animatediff" not in REFUSED[name]]
LONG += [(name, 4) for name in ("fora", "taylor_seer", "encoder_propagation", "tgate", "cross_attention_cache")]


@pytest.mark.parametrize(("name", "split"), LONG)
def test_long_videos(name, split):
    one, bare = video(split)
    fast, same = (accelerate(one.pipe, build_methods(getattr(preset(name), w))) for w in ("methods", "identity"))
    if split and name in MIXING:
        with pytest.raises(UsageError, match="branches cannot be told apart.* leave this method out") as message:
            one.call(fast, [0])
        assert len(str(message.value)) <= 300
        assert torch.equal(one.call(one.pipe, [0]), bare)
        return
    assert torch.equal(one.call(same, [0]), bare)
    found = one.call(fast, [0])
    assert torch.isfinite(found).all() and not torch.equal(found, bare)
    assert torch.equal(one.call(fast, [0]), found)


def slow(one, cut=None, ids=None):
    """FORA(3) by hand, call by call: everything is computed and then thrown away.

    From step `cut` on guidance is off. Attention keeps its conditional rows then; feed-forwards, which are given parts
    of the batch, are computed anew.
    """
    network = getattr(one.pipe, "transformer", None) or one.pipe.unet
    step, calls, outputs = [-1], Counter(), defaultdict(dict)

    def begin(module, args):
        step[0] += 1
        calls.clear()

    def keep(name):
        def hook(module, args, output):
            place, now = (name, calls[name]), step[0]
            calls[name] += 1
            outputs[place][now] = output
            written = now - now % 3
            if cut is None or not written < cut <= now:
                return outputs[place][written]
            feed_forward = name.endswith(("ff", "ff_context"))
            return outputs[place][cut] if feed_forward else second_half(outputs[place][written])

        return hook

    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(begin).remove)
        for name, module in network.named_modules():
            if leaf(name, module):
                stack.callback(module.register_forward_hook(keep(name)).remove)
        return one.call(accelerate(one.pipe, [] if cut is None else [CFGCutoff(gate=cut)]), ids)


def second_half(value):
    return value.chunk(2)[1] if isinstance(value, torch.Tensor) else tuple(map(second_half, value))


@pytest.mark.parametrize("cut", [None, 4])
@pytest.mark.parametrize(("family", "size"), [("text_to_video", 1), ("text_to_video", 2), ("sd3", 1)])
def test_parts_of_a_batch_against_a_slow_reference(smallest, family, size, cut):
    """Once guidance is cut the parts are other ones, and computed again."""
    one, _ = smallest(family)
    with chunked(one, size, 0):
        beside = [] if cut is None else [CFGCutoff(gate=cut)]
        assert torch.equal(one.call(accelerate(one.pipe, [*beside, FORA(interval=3)])), slow(one, cut))


def test_windows_against_a_slow_reference():
    """Temporal attention of a long video is called once a window, feed-forward once for all."""
    one, _ = video(None)
    assert torch.equal(one.call(accelerate(one.pipe, [FORA(interval=3)]), [0]), slow(one, ids=[0]))


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        ([FORA(3), EncoderPropagation(3)], "fora: .* whose steps cannot be told apart; .* use decoding='sequential'"),
        ([TaylorSeer(), EncoderPropagation(3)], "whose steps cannot be told apart"),
    ],
)
@pytest.mark.parametrize("size", [2, 4])
def test_parts_of_a_batch_beside_parallel_decoding_are_refused(smallest, methods, line, size):
    one, _ = smallest("text_to_video")
    with chunked(one, size, 0):
        with pytest.raises(UsageError, match=line):
            one.call(accelerate(one.pipe, methods))
        sequential = [methods[0], EncoderPropagation(3, "sequential")]
        assert torch.isfinite(one.call(accelerate(one.pipe, sequential))).all()


@pytest.mark.parametrize("dim", [0, 1])
def test_tokens_are_not_merged_around_chunks(smallest, dim):
    one, _ = smallest("text_to_video")
    with chunked(one, 1, dim):
        with pytest.raises(UsageError, match="forward chunking.*merge_mlp=False"):
            one.call(accelerate(one.pipe, [ToMe(0.5, merge_mlp=True)]))
        one.call(accelerate(one.pipe, [ToMe(0.5)]))


def test_where_nothing_is_mixed_parts_are_served():
    one, _ = video(4)
    fast = accelerate(one.pipe, [CrossAttentionCache(gate=3, cutoff=False)])
    assert torch.isfinite(one.call(fast, [0])).all()
    assert fast.counts["cross_attention_cache hits"] == fast.counts["cross_attention_cache misses"]


@pytest.mark.parametrize("layers", [[0], [1], [0, 1]], ids=str)
@pytest.mark.parametrize("name", [name for name in CACHES if "sd3" not in REFUSED[name]])
def test_calls_that_leave_layers_out(smallest, name, layers):
    """Skip-layer guidance keeps entries of its own, and what chains of blocks add is not taken from half a chain."""
    one, _ = smallest("sd3")
    skip = {"skip_guidance_layers": layers, "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    fast, same = (accelerate(one.pipe, build_methods(getattr(preset(name), w))) for w in ("methods", "identity"))
    assert torch.equal(one.call(same, **skip), one.call(one.pipe, **skip))
    assert not torch.equal(one.call(fast, **skip), one.call(fast))
    silent = one.call(fast, skip_layer_guidance_scale=0.0, **skip)
    torch.testing.assert_close(silent, one.call(fast), rtol=1e-4, atol=1e-5)
