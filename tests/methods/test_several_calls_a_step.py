"""Networks that call a module several times within a step: chunked feed-forward, sliding windows, split inference."""

from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.engine.errors import UsageError
from postdiff.methods import FORA, TGATE, CFGCutoff, CrossAttentionCache, EncoderPropagation, TaylorSeer, ToMe
from postdiff.presets import build_methods, preset
from tests.methods.test_properties import REFUSED
from tests.methods.test_slow_references import leaf
from tests.support import texts
from tests.support.tiny import build

PRESETS = catalog.names("methods")
STEPS = 6


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


# Rows of one branch, of both, of neither; tokens.
CHUNKS = [("text_to_video", 1, 0), ("text_to_video", 2, 0), ("text_to_video", 1, 1), ("sd3", 1, 0), ("sd3", 2, 1)]
CHUNKS += [("sd3", 2, 0), ("hunyuan", 1, 0)]


def both_settings(one, name, bare):
    found = one.call(accelerate(one.pipe, build_methods(preset(name).methods)))
    assert torch.isfinite(found).all() and not torch.equal(found, bare)
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(preset(name).identity))), bare)
    return found


@pytest.mark.parametrize(("family", "size", "dim"), CHUNKS)
@pytest.mark.parametrize("name", ["fora", "taylor_seer", "pyramid_attention_broadcast", "deepcache", "mag_cache", "tgate"])
def test_chunked_feed_forward(smallest, name, family, size, dim):
    """Outputs of chunks are replayed as those of whole layers are."""
    if family in REFUSED[name]:
        return
    one, bare = smallest(family)
    whole = both_settings(one, name, bare)
    with chunked(one, size, dim):
        expected = one.call(one.pipe)
        torch.testing.assert_close(both_settings(one, name, expected), whole, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=[None, 4, 3], ids=lambda split: f"split {split}")
def video(request):
    one = long_video(request.param)
    return one, one.call(one.pipe, [0]), request.param


@pytest.mark.parametrize("name", [name for name in PRESETS if "animatediff" not in REFUSED[name]])
def test_long_videos(video, name):
    one, bare, split = video
    fast, same = (accelerate(one.pipe, build_methods(getattr(preset(name), w))) for w in ("methods", "identity"))
    try:
        assert torch.equal(one.call(same, [0]), bare)
        found = one.call(fast, [0])
    except UsageError as reason:
        assert split is not None and "parts of its batch" in str(reason)
        assert name in ("cross_attention_cache", "postdiff", "tgate", "tgate_v1")
        assert torch.equal(one.call(one.pipe, [0]), bare)
        return
    assert torch.isfinite(found).all() and not torch.equal(found, bare)
    assert torch.equal(one.call(fast, [0]), found)


def overwritten(one, run, computed_at, chosen, ids):
    """`run`, with outputs of modules replaced by those of an earlier step, call by call within a step."""
    network = getattr(one.pipe, "transformer", None) or one.pipe.unet
    step, calls, outputs = [-1], Counter(), defaultdict(dict)

    def begin(module, args):
        step[0] += 1
        calls.clear()

    def replace(name):
        def hook(module, args, output):
            place = (name, calls[name])
            calls[name] += 1
            outputs[place][step[0]] = output
            return outputs[place][computed_at(step[0])]

        return hook

    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(begin).remove)
        for name, module in network.named_modules():
            if chosen(name, module):
                stack.callback(module.register_forward_hook(replace(name)).remove)
        return one.call(run, ids)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("family", "size", "dim"), [("text_to_video", 1, 0), ("text_to_video", 2, 0), ("sd3", 1, 0)])
def test_parts_of_a_batch_against_a_slow_reference(smallest, family, size, dim, cut):
    """Once guidance is cut the parts are other ones, and computed again."""
    one, _ = smallest(family)
    beside = [CFGCutoff(gate=4)] if cut else []
    with chunked(one, size, dim):
        found = one.call(accelerate(one.pipe, [*beside, FORA(interval=3)]))
        parts = {name for name, module in one.pipe.components.items() if hasattr(module, "enable_forward_chunking")}
        assert parts

        def chosen(name, module):
            return leaf(name, module) and name.endswith(("ff", "ff_context"))

        whole = [name for name, _ in network_of(one).named_modules() if leaf(name, None) and not chosen(name, None)]
        expected = slow(one, beside, chosen, whole, cut)
    assert torch.equal(found, expected)


def network_of(one):
    return getattr(one.pipe, "transformer", None) or one.pipe.unet


def slow(one, beside, parted, whole, cut):
    """FORA(3) by hand: attention keeps its conditional rows beyond the cut, parts of feed-forwards do not."""
    network, step, calls, outputs = network_of(one), [-1], Counter(), defaultdict(dict)

    def begin(module, args):
        step[0] += 1
        calls.clear()

    def keep(name):
        def hook(module, args, output):
            place, now = (name, calls[name]), step[0]
            calls[name] += 1
            outputs[place][now] = output
            if name in whole:
                then = outputs[place][now - now % 3]
                return second_half(then) if cut and now >= 4 > now - now % 3 else then
            return outputs[place][4 if cut and now >= 4 else now - now % 3]

        return hook

    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(begin).remove)
        for name, module in network.named_modules():
            if parted(name, module) or name in whole:
                stack.callback(module.register_forward_hook(keep(name)).remove)
        return one.call(accelerate(one.pipe, beside))


def second_half(value):
    return value.chunk(2)[1] if isinstance(value, torch.Tensor) else tuple(map(second_half, value))


def test_windows_against_a_slow_reference():
    """Temporal attention of a long video is called once a window, feed-forward once for all."""
    one = long_video()
    found = one.call(accelerate(one.pipe, [FORA(interval=3)]), [0])
    expected = overwritten(one, one.pipe, lambda step: step - step % 3, leaf, [0])
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        ([FORA(3), EncoderPropagation(3)], "fora: .* whose steps cannot be told apart; .* use decoding='sequential'"),
        ([TaylorSeer(), EncoderPropagation(3)], "whose steps cannot be told apart"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_of_a_batch_beside_parallel_decoding_are_refused(smallest, methods, line, size):
    one, bare = smallest("text_to_video")
    with chunked(one, size, 0):
        with pytest.raises(UsageError, match=line):
            one.call(accelerate(one.pipe, methods))
        sequential = [methods[0], EncoderPropagation(3, "sequential")]
        assert torch.isfinite(one.call(accelerate(one.pipe, sequential))).all()
        assert torch.equal(one.call(one.pipe), bare)


@pytest.mark.parametrize("method", [TGATE(gate=3), CrossAttentionCache(gate=3)])
def test_split_inference_is_refused_by_what_mixes_branches(method):
    one = long_video(split=4)
    with pytest.raises(UsageError, match="whose guidance branches cannot be told apart.* leave this method out") as told:
        one.call(accelerate(one.pipe, [method]), [0])
    assert len(str(told.value)) <= 300


@pytest.mark.parametrize("dim", [0, 1])
def test_tokens_are_not_merged_around_chunks(smallest, dim):
    one, _ = smallest("text_to_video")
    with chunked(one, 1, dim):
        with pytest.raises(UsageError, match="forward chunking.*merge_mlp=False"):
            one.call(accelerate(one.pipe, [ToMe(0.5, merge_mlp=True)]))
        one.call(accelerate(one.pipe, [ToMe(0.5)]))


def test_without_both_branches_nothing_is_mixed_and_parts_are_served(smallest):
    one = long_video(split=4)
    fast = accelerate(one.pipe, [CrossAttentionCache(gate=3, cutoff=False)])
    assert torch.isfinite(one.call(fast, [0])).all()
    assert fast.counts["cross_attention_cache hits"] == fast.counts["cross_attention_cache misses"]
