"""Prior noise injection against loops that add it by hand, before and after the solver's step."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
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
        inputs = scheduler.scale_model_input(torch.cat([x, x]), t)
        u, c = one.pipe.unet(inputs, t, encoder_hidden_states=text).sample.chunk(2)
        if when == "before" and t / 1000 < threshold:
            x = x + ALPHA * spread(i) * z_T
        x = scheduler.step(u + 5.0 * (c - u), t, x).prev_sample
        if when == "after" and i + 1 < STEPS and scheduler.timesteps[i + 1] / 1000 < threshold:
            x = x + ALPHA * spread(i + 1) * z_T
    return x


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "euler"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_equals_adding_it_by_hand(when, solver):
    one = sd(solver)
    one.pipe.set_progress_bar_config(disable=True)
    ours = one.call(accelerate(one.pipe, [NoiseInjection(ALPHA, 0.6, when)]), latents=NOISE)
    torch.testing.assert_close(ours, by_hand(one, when, 0.6), rtol=1e-5, atol=1e-4)


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
        ("after", 1.0, 7),
    ],
)
def test_from_the_threshold_on_and_never_into_the_finished_latents(case, baseline, when, threshold, injected):
    one = case("sd_ddim")
    driver = accelerate(one.pipe, [NoiseInjection(ALPHA, threshold, when)])
    result = one.call(driver)
    assert driver.counts["noise_injection steps"] == injected
    assert torch.equal(result, baseline("sd_ddim")) == (injected == 0)


@pytest.mark.parametrize("name", ["sd_ddim", "sd_euler", "sd_heun", "dit", "deepfloyd_if"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_of_it_is_the_baseline(case, baseline, name, when):
    one = case(name)
    driver = accelerate(one.pipe, [NoiseInjection(0.0, when=when)])
    assert torch.equal(one.call(driver), baseline(name))
    assert driver.counts["noise_injection steps"] == 0


def test_the_amount_means_the_same_for_solvers_of_growing_latents():
    """From one start DDIM and Euler make nearly the same picture, and injection moves both by nearly the same."""
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
