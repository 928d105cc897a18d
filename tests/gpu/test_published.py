"""On a GPU: Stable Diffusion V1.5 at its real size, random weights, float16: images and memory."""

import pytest
import torch

from postdiff import catalog
from postdiff.cost.memory import peak_memory
from tests.gpu.held_memory import left_by
from tests.gpu.published import Published
from tests.gpu.test_images import ONLY_TRANSFORMERS

pytestmark = pytest.mark.gpu

PRESETS = [name for name in catalog.names("methods") if name not in ONLY_TRANSFORMERS]
SLACK = 2**20  # bytes


@pytest.fixture(scope="module")
def published(device):
    return Published(device)


def test_empty_driver_is_the_pipeline(published):
    plain = published.sampler()
    samples = plain.plan.samples
    bare = plain.call(samples, driver=plain.pipe).images
    assert torch.isfinite(bare).all() and bare.device.type == published.device.type
    assert torch.equal(plain.call(samples).images, bare)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_finite_and_leaves_no_memory(published, name):
    sampler = published.sampler(name)
    samples = sampler.plan.samples
    first = sampler.call(samples).images
    assert torch.isfinite(first).all()

    def again():
        assert torch.equal(sampler.call(samples).images, first)

    assert left_by(again, published.device) <= SLACK


# The last convolution runs whatever a method leaves out; for steps that are decoded together it runs once.
@pytest.mark.parametrize(("name", "call"), [("postdiff", 2), ("faster_diffusion", 1), ("taylor_seer", 2)])
def test_an_exception_in_mid_run_leaves_no_memory(published, name, call):
    sampler = published.sampler(name)
    samples = sampler.plan.samples
    first, calls = sampler.call(samples).images, []

    def fail_there(*_):
        calls.append(1)
        if len(calls) == call:
            raise ZeroDivisionError

    def failing():
        calls.clear()
        with pytest.raises(ZeroDivisionError):
            sampler.call(samples)

    handle = sampler.pipe.unet.conv_out.register_forward_hook(fail_there)
    try:
        failing()
        assert left_by(failing, published.device) <= SLACK
    finally:
        handle.remove()
    assert torch.equal(sampler.call(samples).images, first)


@pytest.mark.parametrize("name", ["postdiff", "faster_diffusion"])
def test_peak_memory_is_the_allocators(published, shown_on_cuda, name):
    sampler, device = published.sampler(name), published.device
    samples = sampler.plan.samples
    sampler.call(samples)
    message = peak_memory(lambda: sampler.call(samples), str(device))
    assert message > sum(weight.nbytes for weight in sampler.pipe.unet.parameters())
    shown_on_cuda("memory counters")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    sampler.call(samples)
    torch.cuda.synchronize(device)
    assert message == torch.cuda.max_memory_allocated(device)
