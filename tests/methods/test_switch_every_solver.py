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
from postdiff.engine import history
from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize
from postdiff.engine.noise_levels import Estimate
from postdiff.methods import GuidanceInterval, MixedResolution, NoiseInjection
from tests.support import tiny
from tests.support.recorder import Recorder
from tests.support.solvers import solver

pytestmark = pytest.mark.slow

STEPS = 8
V = {"prediction_type": "v_prediction"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SMALLEST_LAST = {"final_sigmas_type": "sigma_min"}
SOLVERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddim_v": ("DDIMScheduler", V),
    "ddim_threshold": ("DDIMScheduler", {"thresholding": True}),
    "dpm++2": ("DPMSolverMultistepScheduler", {}),
    "dpm++3_karras": ("DPMSolverMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
    "dpm_noise": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", **SMALLEST_LAST}),
    "dpm_flow": ("DPMSolverMultistepScheduler", FLOW),
    "singlestep2": ("DPMSolverSinglestepScheduler", {}),
    "singlestep3": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "unipc_noise": ("UniPCMultistepScheduler", {"predict_x0": False, **SMALLEST_LAST}),
    "unipc_flow": ("UniPCMultistepScheduler", FLOW),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_v": ("EulerDiscreteScheduler", V),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm_prk": ("PNDMScheduler", {}),
    "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpm": ("EDMDPMSolverMultistepScheduler", {}),
    "edm_v": ("EDMEulerScheduler", V),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
}
STOCHASTIC = {
    "ddpm": ("DDPMScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "sa": ("SASolverScheduler", {}),
    "flow_lcm": ("FlowMatchLCMScheduler", {}),
    # Its network's velocities are extrapolated as they are, which is not exact for any network.
    "pndm_v": ("PNDMScheduler", {"skip_prk_steps": True, **V}),
}
EVERY = SOLVERS | STOCHASTIC
UNRESETTABLE = {"lms", "pndm", "pndm_prk", "pndm_v"}
# The first-order step of each of these is DDIM's, in its own coordinates.
MULTISTEP = ("dpm++2", "dpm++3_karras", "dpm_noise", "singlestep2", "singlestep3", "deis", "unipc", "unipc_noise")


@functools.cache
def _pipe(name):
    return tiny.build(name, small=True)


def case_of(name):
    """A pipeline with the solver; those of flow matching have no place in Stable Diffusion's."""
    cls, settings = EVERY[name]
    one = _pipe("sd3" if cls.startswith("FlowMatch") else "sd")
    one.pipe.scheduler = solver(cls, **settings)
    return one


WEIGHTS = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(11)) / 6


def cheap(inputs, timestep, text):
    """In the place of a network: looks at neighbours, time and text."""
    seen = torch.nn.functional.conv2d(inputs, WEIGHTS, padding=1).tanh()
    return seen * (1 + 1e-3 * timestep) + text.mean((1, 2)).view(-1, 1, 1, 1)


def take_over(one, predict, monkeypatch):
    """Let `predict(inputs, timestep, text)` stand in the place of the pipeline's network."""

    def unet(sample, timestep, encoder_hidden_states=None, **others):
        return (predict(sample, timestep.flatten()[0], encoder_hidden_states),)

    def transformer(hidden_states, timestep=None, encoder_hidden_states=None, **others):
        return (predict(hidden_states, timestep.flatten()[0], encoder_hidden_states),)

    if hasattr(one.pipe, "unet"):
        monkeypatch.setattr(one.pipe.unet, "forward", unet)
    else:
        monkeypatch.setattr(one.pipe.transformer, "forward", transformer)


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    for name in ("sd", "sd3"):
        take_over(_pipe(name), cheap, monkeypatch)


def true_level(scheduler, timestep):
    """(alpha, sigma) of the latents at hand, from the lists and definitions of each kind of solver."""
    place = getattr(scheduler, "_step_index", None) or getattr(scheduler, "_begin_index", None) or 0
    if not hasattr(scheduler, "sigmas"):
        kept = scheduler.alphas_cumprod[timestep]
        return kept.sqrt(), (1 - kept).sqrt()
    sigma = scheduler.sigmas[place]
    if "KDPM2D" in type(scheduler).__name__ and place % 2:
        sigma = (scheduler.sigmas[place - 1] * sigma).sqrt()
    if hasattr(scheduler, "scale_noise") or getattr(scheduler.config, "use_flow_sigmas", False):
        return 1 - sigma, sigma
    if hasattr(scheduler, "scale_model_input") and grows(scheduler):
        return torch.tensor(1.0), sigma
    return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()


def grows(scheduler):
    """Whether latents grow with the noise level, so that the network is given scaled ones."""
    return any(word in type(scheduler).__name__ for word in ("Euler", "Heun", "KDPM2", "LMS", "EDM"))


def perfect(scheduler, clean):
    """What a network predicts that knows the clean image, (rows, C, 1, 1), from its input and timestep."""

    def predict(inputs, timestep, text):
        alpha, sigma = true_level(scheduler, timestep)
        data = getattr(scheduler.config, "sigma_data", 1.0)
        latents = inputs * (sigma**2 + data**2).sqrt() if grows(scheduler) and "Flow" not in name else inputs
        x0 = clean.repeat(len(inputs) // len(clean), 1, 1, 1)
        noise = (latents - alpha * x0) / sigma
        kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
        if hasattr(scheduler, "precondition_outputs"):
            sign = -1 if kind == "v_prediction" else 1
            skip, out = data**2 / (sigma**2 + data**2), sign * sigma * data / (sigma**2 + data**2).sqrt()
            return (x0 - skip * latents) / out
        if kind == "v_prediction":
            return (alpha * noise - sigma * x0) / (alpha**2 + sigma**2).sqrt()
        return {"epsilon": noise, "flow_prediction": noise - x0}[kind]

    name = type(scheduler).__name__
    return predict


def run(one, methods, **changes):
    """(result, latents after every step, levels that they should have, boundaries)."""
    latents, levels, recorder = [], [], Recorder()

    def note(pipe, index, timestep, given):
        latents.append(given["latents"].clone())
        following = pipe.scheduler.timesteps[index + 1 : index + 2]
        levels.append(true_level(pipe.scheduler, following[0]) if len(following) else None)
        return given

    noted = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": ["latents"]}
    driver = accelerate(one.pipe, [*methods, recorder])
    result = one.call(driver, num_inference_steps=STEPS, **noted, **changes)
    return result, latents, levels, recorder.boundaries


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
    one = _pipe("sd3" if cls.startswith("FlowMatch") else "sd")
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
    one = _pipe("sd")
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
