"""Some of what `pytest -m gpu` asks of a GPU, asked of the CPU: so these tests are known to be right themselves."""

import pytest
import torch

from tests.gpu import properties
from tests.gpu.held_memory import left_by
from tests.gpu.placed import HALF, close, placed

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_the_properties_hold_here(dtype):
    one, bare = placed("sd", dtype, CPU)
    properties.empty_driver_is_the_pipeline(one, bare)
    properties.preset_keeps_what_it_promises(one, bare, "postdiff")
    properties.alone_as_in_a_batch(one, ["postdiff"])
    properties.an_exception_leaves_nothing(one, bare, ["faster_diffusion"])


def test_generators():
    one, _ = placed("sd", torch.float32, CPU)
    properties.cpu_generators_draw_what_they_draw_on_the_cpu(one, one, CPU)
    properties.generators_of_the_device_serve(one, CPU)
    properties.none_at_all_follows_the_global_seed(one, CPU)


def test_threads():
    properties.threads_that_share_a_network(placed("sd", torch.float32, CPU)[0], [["postdiff"], []])


def test_what_a_call_keeps_is_seen():
    """Also what only a cycle holds, which Python's search would find later."""
    kept = []

    def keeps():
        kept.append(torch.zeros(1000))

    def cycle():
        own = [torch.zeros(1000)]
        own.append(own)

    assert left_by(lambda: torch.zeros(1000).sum(), CPU) == 0
    assert left_by(keeps, CPU) == left_by(cycle, CPU) == 4000


def test_distance_is_reported():
    whole = torch.ones(4)
    close(whole + 1e-6, whole)
    with pytest.raises(AssertionError, match="apart, not"):
        close(whole + 1e-3, whole)
