"""Levels and x0 against what the schedulers say themselves."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from postdiff.engine import noise_levels
from tests.support.tiny import SCHEDULERS

X0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def noisy(scheduler, timestep):
    alpha, sigma = noise_levels.level(scheduler, timestep)
    return alpha * X0 + sigma * NOISE


@pytest.mark.parametrize("name", ["ddim", "ddim_v", "euler", "euler_v", "euler_ancestral", "ddpm", "dpm++", "unipc"])
def test_x0_equals_the_schedulers_own(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[4]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(4)
    sample = noisy(scheduler, t)
    estimate = noise_levels.estimate(scheduler, NOISE, t, sample)
    ours = estimate.x0
    torch.testing.assert_close(estimate.alpha * ours + estimate.sigma * estimate.noise, sample, rtol=1e-5, atol=1e-5)
    if hasattr(scheduler, "convert_model_output"):
        scheduler._init_step_index(t)
        theirs = scheduler.convert_model_output(NOISE, t, sample=sample)
    else:
        if hasattr(scheduler, "is_scale_input_called"):
            scheduler.is_scale_input_called = True
        theirs = scheduler.step(NOISE, t, sample).pred_original_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_level_after_a_step_is_that_of_the_next_step(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(10)
    t, following = scheduler.timesteps[0], scheduler.timesteps[getattr(scheduler, "order", 1)]
    sample = X0 * scheduler.init_noise_sigma
    for i in range(getattr(scheduler, "order", 1)):
        scheduler.scale_model_input(sample, scheduler.timesteps[i])
        sample = scheduler.step(NOISE, scheduler.timesteps[i], sample, return_dict=False)[0]
    alpha, sigma = noise_levels.level(scheduler, following)
    fresh = SCHEDULERS[name]()
    fresh.set_timesteps(10)
    if hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(getattr(scheduler, "order", 1))
    expected = noise_levels.level(fresh, following)
    assert (alpha, sigma) == expected
    assert 0 < alpha <= 1
    assert sigma > 0
    assert t > following


def test_flow_level_and_velocity():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(3)
    t = scheduler.timesteps[3]
    alpha, sigma = noise_levels.level(scheduler, t)
    assert alpha + sigma == pytest.approx(1.0)
    sample = noisy(scheduler, t)
    torch.testing.assert_close(noise_levels.predict_x0(scheduler, NOISE - X0, t, sample), X0, rtol=1e-5, atol=1e-5)


def test_levels_beyond_those_of_a_flow_are_noise_over_a_whole_signal():
    """Cosmos 2 keeps x0 + sigma * noise and steps it with a flow's solver."""
    solver = FlowMatchEulerDiscreteScheduler()
    solver.set_timesteps(sigmas=[80.0, 5.0, 0.5])
    found = noise_levels.ratios(solver, solver.timesteps)
    assert found == pytest.approx([80.0, 5.0, 0.5])
    x0, noise = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), 2.0)
    taken = noise_levels.estimate(solver, noise, solver.timesteps[0], x0 + 80 * noise)
    torch.testing.assert_close(taken.x0, x0)
    torch.testing.assert_close(taken.noise, noise)
