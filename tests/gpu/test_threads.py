"""On a GPU: two threads, each on a stream of its own, with pipelines that share a network."""

from contextlib import contextmanager

import pytest
import torch

from tests.gpu import properties

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("stacks", [[["postdiff"], []], [["deepcache"], ["faster_diffusion"]]], ids=str)
def test_threads_on_the_main_stream(on, stacks):
    properties.threads_that_share_a_network(on("sd", torch.float32)[0], stacks)


@pytest.mark.parametrize("stacks", [[["postdiff"], []], [["deepcache"], ["faster_diffusion"]]], ids=str)
def test_threads_on_streams_of_their_own(on, device, shown_on_cuda, stacks):
    one, _ = on("sd", torch.float32)
    shown_on_cuda("streams")

    @contextmanager
    def stream():
        own = torch.cuda.Stream(device)
        own.wait_stream(torch.cuda.default_stream(device))
        with torch.cuda.stream(own):
            yield
        own.synchronize()

    properties.threads_that_share_a_network(one, stacks, stream)
