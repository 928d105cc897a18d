"""Which device the tests of this folder run on: a GPU, or the CPU for a dry run with POSTDIFF_GPU_TESTS_ON=cpu."""

import functools
import os

import pytest
import torch

from tests.gpu.placed import placed


@pytest.fixture(scope="session")
def device():
    """The device under test; without CUDA whatever asks for it is skipped, but in a dry run."""
    found = torch.device(os.environ.get("POSTDIFF_GPU_TESTS_ON", "cuda"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA")
    return found


@pytest.fixture(autouse=True)
def exact(device):
    """Float32 without TF32, in convolutions too, and no search for the quickest ones, which may choose anew each time.

    What was set before is set again.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, False, True
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


@pytest.fixture
def on(device):
    """`on(name, dtype)`: a tiny pipeline on the device, and what it generates bare; tests leave it as it was."""
    return functools.partial(placed, device=device)


@pytest.fixture
def shown_on_cuda(device):
    """`shown_on_cuda("memory counters")` ends a dry run where what follows needs CUDA itself."""

    def shown(what):
        if device.type != "cuda":
            pytest.skip(f"dry run: {what} are CUDA's own")

    return shown
