"""Peak memory: known sums of bytes, and what parallel decoding costs."""

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.memory import peak_memory
from postdiff.methods import EncoderPropagation

KILO = 1000  # float32 numbers


def one_after_the_other():
    for _ in range(5):
        torch.zeros(KILO)


def all_kept():
    return [torch.zeros(KILO) for _ in range(5)]


def views_and_in_place():
    square = torch.zeros(KILO).view(10, 100)
    return square.add_(1).t()[:3]


def first_large_then_small():
    torch.zeros(7 * KILO).sum()
    return torch.zeros(KILO)


WEIGHT = torch.ones(3 * KILO)


@pytest.mark.parametrize(
    ("call", "numbers"),
    [
        (one_after_the_other, KILO),
        (all_kept, 5 * KILO),
        (views_and_in_place, KILO),
        (first_large_then_small, 7 * KILO + 1),
        (lambda: WEIGHT[:KILO] * 2, 4 * KILO),
        (lambda: (WEIGHT.view(3, KILO) @ WEIGHT[:KILO]).add_(1), 3 * KILO + 3),
    ],
)
def test_known_sums(call, numbers):
    assert peak_memory(call) == 4 * numbers
    with torch.inference_mode():
        assert peak_memory(call) == 4 * numbers, "a second time, and without autograd"


def test_a_failing_call_leaves_nothing_behind():
    def fails():
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        peak_memory(fails)
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_parallel_decoding_takes_more_memory_and_a_bound_bounds_it(case):
    sd = case("sd")
    peaks = {}
    for name, options in {
        "sequential": {"decoding": "sequential"},
        "by two": {"max_parallel": 2},
        "at once": {},
    }.items():
        fast = accelerate(sd.pipe, [EncoderPropagation(keys=[0], **options)])
        peaks[name] = peak_memory(lambda fast=fast: sd.call(fast))
    bare = peak_memory(lambda: sd.call(sd.pipe))
    assert bare < peaks["sequential"] < peaks["by two"] < peaks["at once"], (bare, peaks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_allocator_reports():
    before = torch.cuda.memory_allocated()
    found = peak_memory(lambda: torch.zeros(2**20, device="cuda"), "cuda")
    assert found - before == 4 * 2**20
