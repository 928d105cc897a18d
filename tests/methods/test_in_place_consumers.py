"""What reads a replayed output may write into it: FreeU scales features in place, and so do adapters and hooks."""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from diffusers import StableDiffusionAdapterPipeline, T2IAdapter
from diffusers.models.unets import unet_2d_blocks, unet_3d_blocks, unet_motion_model

from postdiff import accelerate, catalog
from postdiff.engine.family import Family
from postdiff.engine.ownership import put_together, taken_apart
from postdiff.methods import DeepCache, EncoderPropagation, TaylorSeer
from tests.methods.test_deepcache import official
from tests.methods.test_properties import REFUSED
from tests.support.tiny import SCHEDULERS, Case, build, unet, vae
from tests.support.tiny_presets import build_methods, preset

pytestmark = pytest.mark.slow

PRESETS = catalog.names("methods")
# Those that keep what a module or a chain of them gives out.
CACHES = (
    "block_cache", "cross_attention_cache", "deepcache", "encoder_propagation", "first_block_cache", "fora",
    "mag_cache", "pyramid_attention_broadcast", "taylor_seer", "tea_cache", "tgate", "postdiff",
)  # fmt: skip
FREEU = {"s1": 0.9, "s2": 0.2, "b1": 1.5, "b2": 1.6}
READS_FREEU = (unet_2d_blocks, unet_3d_blocks, unet_motion_model)


@contextmanager
def freeu(pipe, monkeypatch=None):
    """As it is, or, with a monkeypatch, scaling copies of the features in the place of the features themselves."""
    pipe.enable_freeu(**FREEU)
    try:
        if monkeypatch is None:
            yield
        else:
            with monkeypatch.context() as patch:
                for module in READS_FREEU:
                    patch.setattr(module, "apply_freeu", out_of_place(module.apply_freeu))
                yield
    finally:
        pipe.disable_freeu()
        for block in pipe.unet.up_blocks:  # diffusers leaves them behind as None
            for name in FREEU:
                delattr(block, name)


def out_of_place(apply):
    return lambda place, hidden, skip, **options: apply(place, hidden.clone(), skip.clone(), **options)


def drawn(one, name, which="methods"):
    return one.call(accelerate(one.pipe, build_methods(getattr(preset(name), which))))


def served(names, families):
    return [(name, family) for name in names for family in families if family not in REFUSED[name]]


ON_VIDEO = served(("deepcache", "encoder_propagation", "block_cache", "taylor_seer"), ("text_to_video", "animatediff"))


@pytest.mark.parametrize(("name", "family"), [*served(PRESETS, ["sd"]), *ON_VIDEO])
def test_freeu_in_place_is_freeu_out_of_place(smallest, monkeypatch, name, family):
    one, _ = smallest(family)
    with freeu(one.pipe):
        found = drawn(one, name)
        assert torch.equal(drawn(one, name, "identity"), one.call(one.pipe))
    with freeu(one.pipe, monkeypatch):
        assert torch.equal(found, drawn(one, name))


@pytest.mark.parametrize("branch", range(6))
def test_deepcache_under_freeu(monkeypatch, branch):
    """Its authors' package under FreeU writes into its own cache, unless FreeU scales copies."""
    one = build("sd_deep")
    with freeu(one.pipe):
        ours = one.call(accelerate(one.pipe, [DeepCache(interval=3, branch=branch)]))
    monkeypatch.setattr(unet_2d_blocks, "apply_freeu", out_of_place(unet_2d_blocks.apply_freeu))
    assert torch.equal(ours, official("sd_deep", 3, branch, lambda pipe: pipe.enable_freeu(**FREEU)))


def test_features_stay_what_they_were_from_key_to_key(small):
    one, _ = small("sd")
    seen = []
    watch = one.pipe.unet.up_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(float(kwargs["hidden_states"].abs().mean())), with_kwargs=True
    )
    with freeu(one.pipe):
        expected = one.call(accelerate(one.pipe, [EncoderPropagation(4, "sequential")]))
        watch.remove()
        found = one.call(accelerate(one.pipe, [EncoderPropagation(4)]))
    assert [len(set(seen[key : key + 4])) for key in (0, 4)] == [1, 1] and len(set(seen)) == 2
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def scaling(in_place):
    """A hook that makes a module's output larger."""

    def hook(module, args, output):
        tensors, form = taken_apart(output)
        if in_place:
            for tensor in tensors:
                tensor.mul_(1.05)
            return output
        return put_together([tensor * 1.05 for tensor in tensors], form)

    return hook


def hooked(network):
    """Modules whose output nothing else holds."""
    ends = ("attn", "attn1", "attn2", "ff", "mid_block", "up_blocks.0")
    for name, module in network.named_modules():
        within = name.rpartition(".")[0].endswith((".attentions", ".resnets", "transformer_blocks"))
        if name.endswith(ends) or within:
            yield module


@pytest.mark.parametrize(("name", "family"), served(CACHES, ["sd", "dit", "sd3"]))
def test_hooks_that_write_into_outputs(smallest, name, family):
    """Whatever is replayed, a hook that writes is one that returns a new tensor."""
    one, _ = smallest(family)
    found = []
    for in_place in (True, False):
        with ExitStack() as stack:
            for module in hooked(getattr(one.pipe, "transformer", None) or one.pipe.unet):
                stack.callback(module.register_forward_hook(scaling(in_place)).remove)
            found.append((one.call(one.pipe), drawn(one, name, "identity"), drawn(one, name)))
    (bare, same, changed), (expected_bare, _, expected) = found
    assert torch.equal(bare, expected_bare) and torch.equal(same, bare)
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("method", [TaylorSeer(interval=3, order=0), TaylorSeer(interval=2, warmup=1)], ids=str)
def test_forecasts_that_are_replays(smallest, method):
    """Of order 0, or before there is a difference, a forecast is the output computed last."""
    one, _ = smallest("dit")
    found = []
    for in_place in (True, False):
        with ExitStack() as stack:
            for module in hooked(one.pipe.transformer):
                stack.callback(module.register_forward_hook(scaling(in_place)).remove)
            found.append(one.call(accelerate(one.pipe, [method])))
    assert torch.equal(*found)


@pytest.mark.parametrize(("name", "family"), served(CACHES, ["sd", "dit", "sd3"]))
def test_readers_that_write_into_their_input(smallest, monkeypatch, name, family):
    """The same with copies made at once in the place of shared memory."""
    one, _ = smallest(family)
    network = getattr(one.pipe, "transformer", None) or one.pipe.unet

    def write(module, args, kwargs):
        given = args[0] if args else kwargs.get("hidden_states")
        if isinstance(given, torch.Tensor):
            given.mul_(1.02)

    found = []
    with ExitStack() as stack:
        for module_name, module in network.named_modules():
            if module_name.endswith(
                ("norm1", "norm2", "norm3", "attn1", "ff", "up_blocks.0", "up_blocks.1", "resnets.0")
            ):
                stack.callback(module.register_forward_pre_hook(write, with_kwargs=True).remove)
        found.append(drawn(one, name))
        assert torch.equal(drawn(one, name, "identity"), one.call(one.pipe))
        monkeypatch.delattr(torch, "_lazy_clone")
        found.append(drawn(one, name))
    assert torch.isfinite(found[0]).all() and torch.equal(*found)


def adapter():
    """A T2I-Adapter's features are added to the U-Net's own in place, which are skip connections as well."""
    torch.manual_seed(3)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    net = T2IAdapter(
        in_channels=3, channels=[8, 16, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    )
    pipe = StableDiffusionAdapterPipeline(
        **parts, vae=vae(), unet=unet(), adapter=net.eval(), scheduler=SCHEDULERS["ddim"](),
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    plain = build("sd").arguments

    def arguments(ids):
        image = torch.rand(len(ids), 3, 32, 32, generator=torch.Generator().manual_seed(5))
        return {**plain(ids), "image": image}

    return Case(pipe, arguments)


def assert_close(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("mid_block", [True, False])
def test_adapters(monkeypatch, mid_block):
    one = adapter()
    if not mid_block:
        one.pipe.unet.mid_block = None
    bare = one.call(one.pipe)
    stacks = [EncoderPropagation(4, "sequential")], [EncoderPropagation(4)], [DeepCache(2, branch=2)]
    fast = [accelerate(one.pipe, stack, Family("unet")) for stack in stacks]
    found = [one.call(each) for each in fast]
    assert not any(torch.equal(each, bare) for each in found)
    assert_close(found[1], found[0])
    for same in ([EncoderPropagation(1, "sequential")], [DeepCache(1, branch=2)]):
        assert torch.equal(one.call(accelerate(one.pipe, same, Family("unet"))), bare)
    monkeypatch.delattr(torch, "_lazy_clone")
    assert all(torch.equal(one.call(each), before) for each, before in zip(fast, found, strict=True))


def test_freeu_without_a_middle_block(monkeypatch):
    """Its first up block is given the very tensor that is its skip connection, too."""
    one = build("sd", small=True)
    one.pipe.unet.mid_block = None
    with freeu(one.pipe):
        sequential = one.call(accelerate(one.pipe, [EncoderPropagation(4, "sequential")]))
        assert_close(one.call(accelerate(one.pipe, [EncoderPropagation(4)])), sequential)
        deep = one.call(accelerate(one.pipe, [DeepCache(2, branch=2)]))
        monkeypatch.delattr(torch, "_lazy_clone")
        assert torch.equal(one.call(accelerate(one.pipe, [EncoderPropagation(4, "sequential")])), sequential)
        assert torch.equal(one.call(accelerate(one.pipe, [DeepCache(2, branch=2)])), deep)
