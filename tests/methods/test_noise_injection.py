"""Prior noise injection against loops that add it by hand, before and after the solver's step."""

import copy
from contextlib import ExitStack

import pytest
import torch
from diffusers import EDMEulerScheduler

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.methods import EncoderPropagation, MixedResolution, NoiseInjection
from tests.support.tiny import STEPS, sd

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
ALPHA = 0.05


@torch.no_grad()
def by_hand(one, when, threshold):
    """A plain guided run; z_T is what it starts from. Latents that grow with the noise are brought to variance 1."""
    scheduler, arguments = copy.deepcopy(one.pipe.scheduler), one.arguments([0, 1])
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    scheduler.set_timesteps(STEPS)
    exploding = "Euler" in type(scheduler).__name__

    def spread(i):
        return (1 + scheduler.sigmas[i] ** 2).sqrt() if exploding else 1.0

    x = NOISE * scheduler.init_noise_sigma
    z_T = x / spread(0)
    for i, t in enumerate(scheduler.timesteps):
        late = t / 1000 < threshold
        if when == "after" and late:  # before the network call of the step that begins here
            x = x + ALPHA * spread(i) * z_T
        inputs = scheduler.scale_model_input(torch.cat([x, x]), t)
        u, c = one.pipe.unet(inputs, t, encoder_hidden_states=text).sample.chunk(2)
        if when == "before" and late:
            x = x + ALPHA * spread(i) * z_T
        x = scheduler.step(u + 5.0 * (c - u), t, x).prev_sample
    return x


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "euler"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_equals_adding_it_by_hand(when, solver, threshold):
    one = sd(solver)
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [NoiseInjection(ALPHA, threshold, when)]), latents=NOISE)
    torch.testing.assert_close(ours, by_hand(one, when, threshold), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("when", "threshold", "injected"),
    [
        # The 8 timesteps are 876, 751, 626, 501, 376, 251, 126 and 1 of 1000.
        ("before", 0.5, 4),
        ("before", 0.501, 4),
        ("before", 0.502, 5),
        ("before", 0.0, 0),
        ("before", 1.0, 8),
        ("after", 0.5, 4),
        ("after", 1.0, 8),
    ],
)
def test_from_the_threshold_on_and_never_into_the_finished_latents(case, baseline, when, threshold, injected):
    one = case("sd_ddim")
    driver = accelerate(one.pipe, [NoiseInjection(ALPHA, threshold, when)])
    result = one.call(driver)
    assert driver.counts["noise_injection steps"] == injected
    assert torch.equal(result, baseline("sd_ddim")) == (injected == 0)


@pytest.mark.parametrize(
    "name", ["img2img", "inpaint4", "inpaint9", "controlnet", "dit", "upscale_x4", "deepfloyd_if", "wan"]
)
def test_a_run_that_starts_below_the_threshold_has_it_before_its_first_network_call(case, name):
    """The latents alone: masks and other images that go with them are as they were. ControlNets see it too."""
    one, seen = case(name), {}

    def note(key):
        def around(forward, *args, **kwargs):
            given = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
            seen.setdefault(key, []).append(given.clone())
            return forward(*args, **kwargs)

        return around

    networks = [getattr(one.pipe, each, None) for each in ("unet", "transformer", "controlnet")]
    for key, stack in {"plain": [], "ours": [NoiseInjection(ALPHA, 1.0, "after")]}.items():
        with ExitStack() as held:
            for network in (each for each in networks if each is not None):
                held.enter_context(intercept(network, "forward", note(key)))
            one.call(accelerate(one.pipe, stack))
    channels = 3 if name == "deepfloyd_if" else 4
    firsts = 2 if name == "controlnet" else 1
    for plain, ours in zip(seen["plain"][:firsts], seen["ours"][:firsts], strict=True):
        torch.testing.assert_close(ours[:, :channels], plain[:, :channels] * (1 + ALPHA))
        assert torch.equal(ours[:, channels:], plain[:, channels:])


def test_refused_where_latents_cannot_be_reported_from_what_goes_with_them(case):
    """DeepFloyd's second stage has no autoencoder and predicts a variance: 3 of 6 channels are the image's."""
    one = case("if_stage_2")
    with pytest.raises(UsageError, match="which of the network's channels are the 3 latent ones; use when='before'"):
        one.call(accelerate(one.pipe, [NoiseInjection(ALPHA, 1.0, "after")]))


def test_text_to_image_at_the_papers_threshold_starts_above_it(case):
    one = case("sd_ddim")
    counts = accelerate(one.pipe, [NoiseInjection(ALPHA, 0.5, "after")])
    one.call(counts, num_inference_steps=50)
    assert counts.counts["noise_injection steps"] == 25


@pytest.mark.parametrize("when", ["before", "after"])
def test_refused_where_timesteps_are_not_those_of_training(when):
    one = sd("ddim")
    one.pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(UsageError, match="EDMEulerScheduler counts in logarithms of noise levels"):
        one.call(accelerate(one.pipe, [NoiseInjection(ALPHA, 0.5, when)]))


@pytest.mark.parametrize("name", ["sd_ddim", "sd_euler", "sd_heun", "dit", "deepfloyd_if"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_of_it_is_the_baseline(case, baseline, name, when):
    one = case(name)
    driver = accelerate(one.pipe, [NoiseInjection(0.0, when=when)])
    assert torch.equal(one.call(driver), baseline(name))
    assert driver.counts["noise_injection steps"] == 0


def test_the_amount_means_the_same_for_solvers_of_growing_latents():
    """From one start DDIM and Euler make nearly the same image, and injection moves both by nearly the same."""
    moved = []
    for solver in ("ddim", "euler"):
        one = sd(solver)
        one.pipe.set_progress_bar_config(disable=True)
        plain = one.call(one.pipe, latents=NOISE, num_inference_steps=40, guidance_scale=1.0)
        method = NoiseInjection(0.02, 0.5)
        ours = one.call(accelerate(one.pipe, [method]), latents=NOISE, num_inference_steps=40, guidance_scale=1.0)
        moved.append((ours - plain).std())
    assert moved[0] > 0
    assert moved[1] / moved[0] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("when", ["before", "after"])
def test_under_parallel_decoding_predictions_do_not_see_it(case, when):
    """Between keys they are made of the key step's latents, whenever noise is added."""
    one = case("sd_ddim")
    made = [
        one.call(accelerate(one.pipe, [NoiseInjection(ALPHA, 1.0, when), EncoderPropagation([0], decoding)]))
        for decoding in ("sequential", "parallel")
    ]
    assert (made[0] - made[1]).abs().max() <= 1e-5 * made[0].abs().max()


@pytest.mark.parametrize("name", ["sd_dpm++", "sd_euler", "sdxl"])
def test_the_prior_is_the_runs_own_whoever_stands_outside(case, name):
    """Mixed resolution hands on latents replicated from its sub-grid; the noise added at full size is not such."""
    one = case(name)
    stack = [MixedResolution(switch=3), NoiseInjection(ALPHA, 0.5)]
    assert torch.equal(one.call(accelerate(one.pipe, stack)), one.call(accelerate(one.pipe, stack[::-1])))


def test_refused_twice_in_one_stack(case):
    with pytest.raises(UsageError, match="both act on 'prior noise'"):
        accelerate(case("sd").pipe, [NoiseInjection(), NoiseInjection(when="after")])


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"threshold": 1.5}, {"threshold": -0.1}, {"when": "during"}])
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        NoiseInjection(**options)
