"""Steps, and randomness that belongs to samples."""

import pytest
import torch

from postdiff.engine.errors import UsageError
from postdiff.engine.family import Family
from postdiff.engine.state import State


def state(**changes):
    return State(family=changes.pop("family", Family("unet")), scheduler=None, steps=20, **changes)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(
    ("when", "step"), [(0, 0), (7, 7), (20, 20), (0.0, 0), (0.5, 10), (0.2, 4), (0.124, 2), (1.0, 20)]
)
def test_step_of(when, step):
    assert state().step_of(when, "gate") == step


@pytest.mark.parametrize("when", [-1, 21, 1.2])
def test_step_outside_the_run(when):
    with pytest.raises(UsageError, match=f"gate={when} is outside this run of 20 steps"):
        state().step_of(when, "gate")


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    like = torch.empty(3, 4, 8, 8)
    together = state(generators=generators(1, 2, 3)).noise(like)
    alone = state(generators=generators(2)).noise(like[:1])
    assert torch.equal(together[1:2], alone)


def test_frames_of_a_sample_share_its_generator():
    video = state(family=Family("unet", step_rows="frames"), generators=generators(1, 2))
    assert torch.equal(
        video.noise(torch.empty(6, 4, 8, 8))[3:], state(generators=generators(2)).noise(torch.empty(3, 4, 8, 8))
    )


def test_doubled_rows_get_the_same_noise_twice():
    doubled = state(family=Family("transformer", step_rows="doubled"), generators=generators(5))
    doubled.all_branches = ("cond", "uncond")
    first, second = doubled.noise(torch.empty(2, 4, 8, 8))
    assert torch.equal(first, second)


def test_without_generators_noise_follows_the_sample_and_spares_the_global_generator():
    rows = torch.randn(2, 4, 8, 8)
    before = torch.get_rng_state()
    both = state(first_rows=rows).noise(rows)
    alone = state(first_rows=rows[1:]).noise(rows[1:])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both[0], both[1])


def test_wrong_number_of_generators():
    with pytest.raises(UsageError, match="2 generators do not fit a batch of 3"):
        state(generators=generators(1, 2)).noise(torch.empty(3, 4, 8, 8))
