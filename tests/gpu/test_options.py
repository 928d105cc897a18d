"""On a GPU: options of the whole network beside methods: compiled blocks, channels last, attention, autocast."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from postdiff import accelerate
from postdiff.lab.config.schema import NetworkConfig
from postdiff.lab.pipelines import compiled_blocks
from postdiff.lab.pipelines.network_options import NetworkOptions
from postdiff.presets import build_methods
from tests.gpu.placed import HALF, close, left, move
from tests.support.cases import Case, common, encoded_text
from tests.support.parts import SCHEDULERS, unet, vae

pytestmark = pytest.mark.gpu


def within(one, methods, **options):
    """What methods generate with options of the network and without."""
    fast, before = accelerate(one.pipe, build_methods(methods)), left(one.pipe)
    expected = one.call(fast)
    counts = dict(fast.counts)
    with NetworkOptions(one.pipe, NetworkConfig(**options)).around(fast):
        found = one.call(fast)
    assert dict(fast.counts) == counts and left(one.pipe) == before
    assert torch.equal(one.call(fast), expected), "an option outlives its call"
    return found, expected


@pytest.mark.parametrize("methods", [[], ["postdiff"]], ids=str)
def test_channels_last(on, methods):
    close(*within(on("sd", torch.float32)[0], methods, channels_last=True))


@pytest.mark.parametrize(("name", "methods"), [("sd", ["deepcache"]), ("pixart_alpha", ["fora"])], ids=str)
def test_compiled_blocks(on, device, monkeypatch, name, methods):
    if device.type != "cuda":
        monkeypatch.setattr(compiled_blocks, "BACKEND", "aot_eager")  # a dry run does without a compiler
    close(*within(on(name, torch.float32)[0], methods, compile=True), 1e-3)


@pytest.fixture(scope="module")
def wide(device):
    """Heads of 64 channels, in float16: every kernel serves these."""
    network = unet(levels=2, block_out_channels=(64, 128, 128), attention_head_dim=(1, 2, 2))
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=network, scheduler=SCHEDULERS["ddim"](), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    one = Case(pipe, lambda ids: common(ids, height=32, width=32, **encoded_text(ids, 77)) | {"num_inference_steps": 4})
    move(one, HALF, device)
    one.call(one.pipe)  # a pipeline notes things about itself at its first call
    return one


@pytest.mark.parametrize("methods", [[], ["cross_attention_cache"]], ids=str)
@pytest.mark.parametrize("kernel", ["math", "flash", "efficient", "cudnn", "eager"])
def test_every_kernel_of_attention(wide, device, shown_on_cuda, kernel, methods):
    if kernel in ("efficient", "cudnn"):
        shown_on_cuda(f"attention kernels such as {kernel}")
    close(*within(wide, methods, attention=kernel))


@pytest.mark.parametrize("kernel", ["math", "flash", "efficient", "cudnn"])
def test_every_kernel_where_diffusers_dispatches(on, shown_on_cuda, kernel):
    if kernel in ("efficient", "cudnn"):
        shown_on_cuda(f"attention kernels such as {kernel}")
    close(*within(on("flux", HALF)[0], ["fora"], attention=kernel))


@pytest.mark.parametrize(("name", "methods"), [("sd", ["postdiff"]), ("pixart_alpha", ["taylor_seer"])], ids=str)
def test_autocast(on, device, name, methods):
    """Weights in float32, computed in bfloat16: the driver is the pipeline, methods repeat themselves."""
    one, exact = on(name, torch.float32)
    fast = accelerate(one.pipe, build_methods(methods))
    with torch.autocast(device.type, torch.bfloat16):
        bare = one.call(one.pipe)
        assert torch.equal(one.call(accelerate(one.pipe)), bare)
        first = one.call(fast)
        assert torch.equal(one.call(fast), first)
    assert torch.isfinite(first).all() and not torch.equal(bare, exact)
    assert torch.equal(one.call(one.pipe), exact)
