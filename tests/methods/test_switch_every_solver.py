"""A switch of resolution with every solver: what it re-noises is what the next step starts from.

A network that knows the clean image must find, after the switch and after every later step, noise of just the
strength that it is told. Another network must draw other images from other fresh noise.
"""

import copy
import functools
import inspect

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize
from postdiff.engine.noise_levels import Estimate
from postdiff.methods import GuidanceInterval, MixedResolution, NoiseInjection
from postdiff.methods.mixed_resolution import history
from tests.support.every_solver import (
    EVERY,
    SOLVERS,
    STEPS,
    UNRESETTABLE,
    V,
    case_of,
    cheap,
    perfect,
    pipe_of,
    run,
    take_over,
    true_level,
)
from tests.support.recorder import Recorder
from tests.support.solvers import solver

pytestmark = pytest.mark.slow

# The first-order step of each of these is DDIM's, in its own coordinates.
MULTISTEP = ("dpm++2", "dpm++3_karras", "dpm_noise", "singlestep2", "singlestep3", "deis", "unipc", "unipc_noise")


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    for name in ("sd", "sd3"):
        take_over(pipe_of(name), cheap, monkeypatch)


@pytest.mark.parametrize("switch", [1, 4, 5])
@pytest.mark.parametrize("name", EVERY)
def test_a_network_that_knows_the_image_is_reported_the_noise_there_is(name, switch, monkeypatch):
    one = case_of(name)
    clean = 0.5 * torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(5))
    take_over(one, perfect(one.pipe.scheduler, clean), monkeypatch)
    _, latents, levels, [end] = run(one, [MixedResolution(switch=switch)])
    found = [
        (each - level[0] * clean) / level[1]
        for each, level in zip(latents[end - 1 : -1], levels[end - 1 : -1], strict=True)
        if level[1] > 0
    ]
    assert float(found[0].std()) == pytest.approx(1, abs=0.1)
    for noise in found[1:]:
        if name in SOLVERS:
            torch.testing.assert_close(noise, found[0], rtol=0, atol=0.02)
        elif name != "pndm_v":
            assert float(noise.std()) == pytest.approx(1, abs=0.15)


def fine(latents):
    """Share of the energy inside 2 x 2 blocks: of latents replicated from half the size it is nothing."""
    blocks = torch.nn.functional.avg_pool2d(latents, 2)
    inside = latents - torch.nn.functional.interpolate(blocks, scale_factor=2)
    return float(inside.square().mean() / latents.square().mean())


@pytest.mark.parametrize("name", EVERY)
def test_other_fresh_noise_draws_another_image(name):
    one = case_of(name)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for switch in (1, 3, 4, 5):
        drawn, kept = [], []
        for seed in (1, 2):
            options = {"ids": [0], "latents": start, "generator": torch.Generator().manual_seed(seed)}
            result, latents, _, [end] = run(one, [MixedResolution(switch=switch, history="keep")], **options)
            drawn.append(result)
            kept.append(fine(latents[end]) / fine(latents[end - 1]))
        assert min(kept) > 0.6, f"switch={switch}: the fresh noise was lost"
        assert (drawn[0] - drawn[1]).std() > 0.05 * drawn[0].std(), f"switch={switch}"


@pytest.mark.parametrize(
    ("name", "switch", "end"),
    [
        ("heun", 1, 2), ("heun", 5, 4), ("kdpm2", 5, 4), ("kdpm2_ancestral", 3, 2), ("flow_heun", 5, 4),
        ("singlestep2", 5, 4), ("singlestep2", 1, 2), ("singlestep3", 5, 3), ("singlestep3", 1, 3),
        ("pndm", 1, 2), ("pndm", 3, 3), ("pndm_prk", 5, 4), ("pndm_prk", 11, 8), ("pndm_prk", 13, 13),
        ("dpm++2", 1, 1), ("unipc", 5, 5), ("sa", 3, 3),
    ],
)  # fmt: skip
def test_switches_where_the_solver_starts_from_the_latents_at_hand(name, switch, end):
    assert run(case_of(name), [MixedResolution(switch=switch)])[3] == {end}


def rest_of_the_run(one, end, latents, states):
    """The steps from `end` on with a new solver that starts there, written out."""
    scheduler, arguments = copy.deepcopy(one.pipe.scheduler), one.arguments([0, 1])
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(end)
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    generators = [torch.Generator() for _ in states]
    for generator, known in zip(generators, states, strict=True):
        generator.set_state(known)
    known = inspect.signature(scheduler.step).parameters
    options = {key: value for key, value in (("generator", generators), ("eta", 0.0)) if key in known}
    first = None
    for timestep in scheduler.timesteps[end:]:
        inputs = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        u, c = one.pipe.unet(inputs, timestep, encoder_hidden_states=text)[0].chunk(2)
        guided = u + 5.0 * (c - u)
        if first is None:
            alpha, sigma = true_level(scheduler, timestep)
            before = (latents - sigma * guided) / alpha, guided
        latents = scheduler.step(guided, timestep, latents, **options).prev_sample
        if first is None:
            alpha, sigma = true_level(scheduler, scheduler.timesteps[end + 1])
            first = latents, alpha * before[0] + sigma * before[1]
    return latents, first


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in EVERY if name not in UNRESETTABLE and "flow" not in name[:5]])
def test_reset_is_a_run_that_starts_there(name):
    one, states = case_of(name), {}
    given = one.arguments([0, 1])["generator"]

    class Note(Recorder):
        def step(self, forward, output, timestep, sample, state):
            moved = forward(output, timestep, sample)
            states[state.index] = moved.clone(), [generator.get_state() for generator in given]
            return moved

    driver = accelerate(one.pipe, [Note(), MixedResolution(switch=4, history="reset")])
    ours = one.call(driver, num_inference_steps=STEPS, generator=given)
    end = 3 if name == "singlestep3" else 4
    theirs, (first, ddim) = rest_of_the_run(one, end, *states[end - 1])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    if name in MULTISTEP:
        torch.testing.assert_close(first, ddim, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(UNRESETTABLE))
def test_no_reset_where_the_next_step_would_not_be_of_first_order(name):
    one = case_of(name)
    with pytest.raises(UsageError, match="Scheduler cannot drop its history in mid-run; use history='keep'"):
        run(one, [MixedResolution(switch=4, history="reset")])


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        ("IPNDMScheduler", {}, "IPNDMScheduler does not tell what its network predicts"),
        ("CogVideoXDPMScheduler", {}, "CogVideoXDPMScheduler's history is kept by the pipeline"),
        ("FlowMatchLCMScheduler", {"scale_factors": [2.0], "upscale_mode": "nearest"}, "size of latents itself"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "tells no noise level with invert_sigmas"),
    ],
)
def test_refused_before_anything_runs(cls, settings, message):
    scheduler = solver(cls, **settings)
    scheduler.set_timesteps(STEPS)
    one = pipe_of("sd3" if cls.startswith("FlowMatch") else "sd")
    one.pipe.scheduler = scheduler
    driver = accelerate(one.pipe, [MixedResolution(switch=4)])
    with pytest.raises(UsageError, match=message):
        one.call(driver, num_inference_steps=STEPS)
    assert driver.counts["network calls"] == 0


@pytest.mark.parametrize("name", ["kdpm2", "kdpm2_ancestral"])
def test_levels_are_not_shifted_where_the_solver_has_others_in_between(name):
    with pytest.raises(UsageError, match="shift: KDPM2.* evaluates between its noise levels"):
        run(case_of(name), [MixedResolution(switch=4, shift=1.0, history="reset")])


@pytest.mark.parametrize("name", ["edm_euler", "edm_dpm", "euler_continuous", "singlestep2"])
def test_shifted_levels_and_the_timesteps_that_the_network_is_reported_agree(name, monkeypatch):
    """At half the side half the noise, but for the first step; EDM's timesteps are a quarter of its logarithm."""
    if name == "euler_continuous":
        monkeypatch.setitem(EVERY, name, ("EulerDiscreteScheduler", {**V, "timestep_type": "continuous"}))
    one = case_of(name)
    one.call(one.pipe, num_inference_steps=STEPS)
    plain = one.pipe.scheduler.sigmas.clone()
    run(one, [MixedResolution(switch=4, shift=1.0, history="reset")])
    shifted, times = one.pipe.scheduler.sigmas, one.pipe.scheduler.timesteps
    torch.testing.assert_close(shifted[1:4], plain[1:4] / 2, rtol=0.01, atol=0)
    assert torch.equal(shifted[4:], plain[4:])
    if name != "singlestep2":
        torch.testing.assert_close(times, shifted[:-1].log() / 4, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [NoiseInjection(), NoiseInjection(when="after"), GuidanceInterval()], ids=repr)
def test_other_methods_of_noise_levels_refuse_solvers_that_report_none(method):
    one = pipe_of("sd")
    one.pipe.scheduler = solver("IPNDMScheduler")
    with pytest.raises(UsageError, match="IPNDMScheduler tells no noise level"):
        one.call(accelerate(one.pipe, [method]), num_inference_steps=STEPS)


@pytest.mark.parametrize("name", ["edm_euler", "flow", "flow_heun", "kdpm2", "dpm++3_karras", "heun", "unipc_flow"])
def test_guidance_interval_goes_by_the_levels_that_the_solver_steps_at(name):
    one, low, high = case_of(name), 0.3, 3.0
    levels, recorder = [], Recorder()

    class Note(Recorder):
        def step(self, forward, output, timestep, sample, state):
            alpha, sigma = true_level(state.scheduler, timestep)
            levels.append(float(sigma / alpha))
            return forward(output, timestep, sample)

    one.call(accelerate(one.pipe, [Note(), GuidanceInterval(low, high), recorder]), num_inference_steps=STEPS)
    assert [rows == 4 for rows in recorder.rows] == [low < level <= high for level in levels]
    assert len(set(recorder.rows)) == 2


def test_noise_that_is_remembered_becomes_that_of_the_new_latents():
    """And differences from the last are enlarged; remembered x0 is enlarged as it is."""

    def drawn(seed, side):
        return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))

    low = Estimate(drawn(0, 4), drawn(1, 4), torch.tensor(0.8), torch.tensor(0.6))
    older, fresh = drawn(2, 4), drawn(3, 8)

    class Solver:
        def __init__(self, newest):
            self.model_outputs = [None, *(resize(each, (8, 8)) for each in (older, newest))]

    def enlarged(newest):
        scheduler = Solver(newest)
        history.enlarge(scheduler, low, fresh, (8, 8), 1)
        assert scheduler.model_outputs[0] is None
        return scheduler.model_outputs[1:]

    up = functools.partial(resize, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(enlarged(low.noise), [fresh + up(older - low.noise), fresh], atol=1e-4, rtol=0)
    torch.testing.assert_close(enlarged(low.x0), [up(older), up(low.x0)], atol=0, rtol=0)
    velocity = low.alpha * low.noise - low.sigma * low.x0
    expected = low.alpha * fresh - low.sigma * up(low.x0)
    torch.testing.assert_close(enlarged(velocity)[1], expected, atol=1e-4, rtol=0)
