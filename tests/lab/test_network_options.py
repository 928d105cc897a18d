"""`network:` of a row: every option acts, changes images by rounding at most, and is gone after the call."""

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch.nn import functional

from postdiff import accelerate, catalog, presets
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import NetworkConfig, resolve
from postdiff.lab.generate import pipelines as sampling
from postdiff.lab.pipelines.network_options import NetworkOptions
from postdiff.lab.plan import plan
from tests.support import tiny
from tests.support.snapshot import snapshot
from tests.support.twins import TWINS

pytestmark = pytest.mark.slow

# Float error of one network, times the steps that carry it on.
TOLERANCE = 1e-5


def options(pipe, **values):
    return NetworkOptions(pipe, NetworkConfig(**values))


def close(found, expected):
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.fixture
def kernels(monkeypatch):
    """The kernels that torch was allowed at each attention so far."""
    seen, attention = [], functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append({backend.name for backend in torch.nn.attention._cur_sdpa_kernel_backends()})
        return attention(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.parametrize(
    "values",
    [
        {"channels_last": True},
        {"attention": "math"},
        {"channels_last": True, "attention": "eager", "vae_slicing": True},
    ],
    ids=str,
)
def test_same_images_same_hits_nothing_left(small, values):
    one, _ = small("sd")
    fast = accelerate(one.pipe, presets.build_methods(["postdiff"]))
    settings = {"output_type": "pt", "num_inference_steps": 4}
    expected = one.call(fast, **settings)
    counts, before = dict(fast.counts), snapshot(one.pipe)
    with options(one.pipe, **values).around(fast):
        close(one.call(fast, **settings), expected)
    assert dict(fast.counts) == counts and counts["cross_attention_cache hits"] and counts["deepcache hits"]
    assert snapshot(one.pipe) == before
    assert torch.equal(one.call(fast, **settings), expected)


def test_channels_last_is_torchs_own_and_ends_with_the_call(small):
    one, _ = small("sd")
    other = tiny.build("sd", small=True)
    other.pipe.unet.to(memory_format=torch.channels_last)
    other.pipe.vae.to(memory_format=torch.channels_last)
    formats, last = [], torch.channels_last
    hook = one.pipe.unet.conv_in.register_forward_hook(
        lambda conv, _, out: formats.append([each.is_contiguous(memory_format=last) for each in (conv.weight, out)])
    )
    with options(one.pipe, channels_last=True).around(one.pipe):
        found = one.call(one.pipe, output_type="pt", num_inference_steps=2)
    hook.remove()
    assert torch.equal(found, other.call(other.pipe, output_type="pt", num_inference_steps=2))
    assert formats and all(all(each) for each in formats)
    assert one.pipe.unet.conv_in.weight.is_contiguous() and one.pipe.vae.decoder.conv_in.weight.is_contiguous()


def test_channels_last_gives_a_vae_back_that_the_call_has_cast(small):
    one, _ = small("sd")
    weight = one.pipe.vae.decoder.conv_in.weight
    kept = weight.detach().clone()
    for _ in range(2):
        with options(one.pipe, channels_last=True).around():
            one.pipe.vae.to(torch.float64)
            assert weight.is_contiguous(memory_format=torch.channels_last)
            one.pipe.vae.to(torch.float32)
        assert weight.is_contiguous() and torch.equal(weight, kept)


def test_only_the_denoiser_gets_the_kernel(small, kernels):
    one, _ = small("sd")
    kernels.clear()
    with options(one.pipe, attention="math").around(one.pipe):
        one.call(one.pipe, output_type="pt", num_inference_steps=1)
    assert kernels[0] == {"MATH"}
    assert kernels[-1] > {"MATH", "FLASH_ATTENTION"}, "the VAE decodes with what torch chooses"


def test_a_kernel_for_attention_that_diffusers_dispatches(small, kernels):
    one, _ = small("flux")
    kernels.clear()
    before = _AttentionBackendRegistry._active_backend
    with options(one.pipe, attention="math").around(one.pipe):
        one.call(one.pipe, num_inference_steps=1)
    assert kernels and all(seen == {"MATH"} for seen in kernels)
    assert _AttentionBackendRegistry._active_backend == before


def test_eager_attention_never_asks_torch_for_a_kernel(small, kernels):
    one, _ = small("sd")
    one.call(one.pipe, num_inference_steps=1)
    assert kernels
    kernels.clear()
    with options(one.pipe, attention="eager").around(one.pipe):
        one.call(one.pipe, num_inference_steps=1)
    assert not kernels


def test_a_kernel_that_cannot_be_had_is_reported_in_one_line(small):
    one, _ = small("sd")
    before = snapshot(one.pipe)
    message = pytest.raises(
        UsageError, match="attention=efficient cannot serve UNet2DConditionModel.*float32 on cpu.*math"
    )
    with message, options(one.pipe, attention="efficient").around(one.pipe):
        one.call(one.pipe, num_inference_steps=1)
    assert snapshot(one.pipe) == before


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("flux", {"attention": "eager"}, "FluxTransformer2DModel computes attention with FluxAttnProcessor.*use math"),
        ("deepfloyd_if", {"vae_tiling": True}, "vae_tiling=true: IFPipeline has no VAE; leave it out"),
    ],
)
def test_what_cannot_act_is_refused_before_a_call(small, name, values, message):
    with pytest.raises(UsageError, match=message):
        options(small(name)[0].pipe, **values)


def test_options_reach_both_of_two_networks_that_take_turns():
    pipe = TWINS["wan22"]().pipe
    with options(pipe, attention="math").around(pipe):
        assert all("forward" in vars(network) for network in (pipe.transformer, pipe.transformer_2))
    assert not any("forward" in vars(network) for network in (pipe.transformer, pipe.transformer_2))


def test_classic_attention_leaves_no_kernel_to_choose(small):
    one, _ = small("sd")
    with options(one.pipe, attention="eager").around(one.pipe), pytest.raises(UsageError, match="classic way already"):
        options(one.pipe, attention="math")


def test_channels_last_needs_a_convolution(small):
    with options(small("deepfloyd_if")[0].pipe, channels_last=True).around():
        pass  # a U-Net without a VAE has some
    bare = options(tiny.build("deepfloyd_if", small=True).pipe, channels_last=True)
    bare.denoisers[:] = [torch.nn.Linear(2, 2)]
    with pytest.raises(UsageError, match="two-dimensional convolutions, and Linear have none"), bare.around():
        pass


def decoded(pipe, call):
    """How often the decoder ran."""
    runs = []
    hook = pipe.vae.decoder.register_forward_hook(lambda *_: runs.append(1))
    call()
    hook.remove()
    return len(runs)


def test_slices_and_tiles_are_decoded_one_by_one(small):
    one, _ = small("sd")
    settings = {"output_type": "pt", "num_inference_steps": 1}
    assert decoded(one.pipe, lambda: one.call(one.pipe, **settings)) == 1
    with options(one.pipe, vae_slicing=True).around():
        assert decoded(one.pipe, lambda: one.call(one.pipe, **settings)) == 2
    with options(one.pipe, vae_tiling=True).around():
        large = decoded(one.pipe, lambda: one.call(one.pipe, [0], **settings, height=64, width=64))
    assert large > 4
    message = pytest.raises(
        UsageError, match="vae_tiling=true did nothing: .* single tile of 32 pixels to AutoencoderKL"
    )
    with message, options(one.pipe, vae_tiling=True).around():
        one.call(one.pipe, **settings)
    assert not one.pipe.vae.use_tiling and not one.pipe.vae.use_slicing


def jobs_of(rows, **base):
    """Jobs of rows that differ as `rows` says."""
    usual = {"count": 1, "seeds": [0], "metrics": [], "bench": {"repeats": 0}, "device": "cpu", **base}
    found = [Row(name, name, resolve([("test", {**usual, **values})]), {}, {}) for name, values in rows.items()]
    return plan.plan_rows(Experiment("options", "", "options", tuple(found)))


def test_rows_of_one_pipeline_leave_each_other_alone(tiny):
    rows = {"plain": {}, "last": {"network": {"channels_last": True, "attention": "eager", "vae_slicing": True}}}
    plain, last = jobs_of(rows, model="tiny", data="tiny", steps=2, count=2)
    pipelines = sampling.Pipelines()
    one, other = pipelines.sampler(plain), pipelines.sampler(last)
    assert one.pipe is other.pipe
    expected, changed = one.call(plain.samples).images, other.call(last.samples).images
    close(changed, expected)
    assert not torch.equal(changed, expected), "the options did nothing"
    assert torch.equal(one.call(plain.samples).images, expected)
    assert torch.equal(other.call(last.samples).images, changed)


def test_options_are_part_of_an_identity_and_not_of_the_references(tiny):
    rows = {"plain": {}, "default": {"network": {"attention": None}}, "math": {"network": {"attention": "math"}}}
    plain, default, math = jobs_of(rows, model="tiny", data="tiny", steps=2)
    for name in ("run_id", "speed_id", "images_id", "content_id"):
        assert getattr(plain, name) == getattr(default, name) != getattr(math, name)
    assert plain.references_id == math.references_id == math.reference().images_id
    assert math.reference().config.network == NetworkConfig() and math.resolved()["network"]["attention"] == "math"


PRESETS = catalog.names("methods")
TRANSFORMERS_ONLY = {"dbcache", "first_block_cache", "mag_cache", "sea_cache", "tea_cache"}


def test_every_preset_on_a_channels_last_network():
    pipelines = sampling.Pipelines()
    last = {"network": {"channels_last": True}}
    for name in PRESETS:
        plain, changed = jobs_of({"plain": {"methods": [name]}, "last": {"methods": [name], **last}}, steps=4)
        try:
            sampler = pipelines.sampler(plain)
            expected = sampler.call(plain.samples).images
        except UsageError:
            assert name in TRANSFORMERS_ONLY, name
            continue
        counts = dict(sampler.fast.counts)
        sampler = pipelines.sampler(changed)
        found = sampler.call(changed.samples).images
        assert (found - expected).abs().max() < 1e-4 and dict(sampler.fast.counts) == counts, name
