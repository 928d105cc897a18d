"""What else may differ at a switch: enlarged in pixels, noise that goes on, noise levels shifted with the size."""

import copy

import pytest
import torch
from diffusers import AutoencoderKLWan, DDIMScheduler, DPMSolverMultistepScheduler
from torch.nn.functional import interpolate

from postdiff import accelerate
from postdiff.cost.macs import count_macs
from postdiff.engine import noise_levels
from postdiff.engine.grid import resize
from postdiff.engine.intercept import intercept
from postdiff.lab.pipelines import cards, models
from postdiff.methods import MixedResolution
from postdiff.methods.mixed_resolution import block_noise, pixel_space
from postdiff.presets import describe
from tests.support.tiny import BETAS, STEPS, sd, vae

pytestmark = pytest.mark.slow


def eye_of(low, full):
    """Covariance of `continued` on (low) -> (full), exactly: its linear map times its transpose."""
    small, large = (side[0] * side[1] for side in (low, full))
    kept = block_noise.continued(torch.eye(small).view(small, *low), torch.zeros(small, *full)).flatten(1)
    new = block_noise.continued(torch.zeros(large, *low), torch.eye(large).view(large, *full)).flatten(1)
    return kept.T @ kept + new.T @ new


@pytest.mark.parametrize(("low", "full"), [((4, 4), (8, 8)), ((3, 4), (4, 6)), ((5, 3), (7, 9)), ((4, 4), (4, 4))])
def test_correlated_noise_is_white(low, full):
    torch.testing.assert_close(eye_of(low, full), torch.eye(full[0] * full[1]), rtol=0, atol=1e-5)


def test_sample_covariance_of_correlated_noise():
    """The same by drawing; enlarged noise alone has the covariance 1 within its blocks."""
    own = torch.Generator().manual_seed(0)
    small, fresh = torch.randn(40_000, 2, 2, generator=own), torch.randn(40_000, 4, 4, generator=own)
    found = block_noise.continued(small, fresh)
    assert (torch.cov(found.flatten(1).T) - torch.eye(16)).abs().max() < 0.04
    assert (torch.cov(resize(small, (4, 4)).flatten(1).T) - torch.eye(16)).abs().max() > 0.9
    # The means of its blocks are the small noise itself.
    torch.testing.assert_close(2 * resize(found, (2, 2), "area"), small)


@pytest.fixture(scope="module")
def emoji():
    pipe = models.load(cards.card("emoji"), "float32", "cpu")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


def draw(run, **changes):
    given = {"num_inference_steps": 4, "guidance_scale": 4.0, "generator": generators(), "output_type": "latent"}
    return run(["rocket", "pizza"], **{**given, **changes}).images


@pytest.mark.parametrize(
    "options",
    [
        {"space": "pixel"},
        {"space": "pixel", "upsampling": "bicubic"},
        {"noise": "correlated"},
        {"space": "pixel", "noise": "correlated"},
    ],
    ids=str,
)
def test_a_run_of_the_shipped_model_equals_a_straight_loop(emoji, options):
    """2 low steps, switch, 2 full steps, written out for DDIM."""
    start = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in generators()])
    ours = draw(accelerate(emoji, [MixedResolution(switch=2, **options)]), latents=start)
    text, empty = emoji.encode_prompt(["rocket", "pizza"], "cpu", 1, True)
    scheduler, own = copy.deepcopy(emoji.scheduler), generators()
    scheduler.set_timesteps(4)
    x = interpolate(start, (8, 8), mode="nearest-exact")
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            u, c = emoji.unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([empty, text])).sample.chunk(2)
            before, moved = x, scheduler.step(u + 4.0 * (c - u), t, x)
            x = moved.prev_sample
            if i == 1:
                x0 = moved.pred_original_sample
                a = scheduler.alphas_cumprod[t]
                low_noise = (before - a.sqrt() * x0) / (1 - a).sqrt()
                mode = options.get("upsampling", "bilinear")
                if "space" in options:
                    pixels = emoji.vae.decode(x0).sample
                    pixels = interpolate(pixels, (64, 64), mode=mode).clamp(-1, 1)
                    x0 = emoji.vae.encode(pixels).latent_dist.mode()
                else:
                    x0 = interpolate(x0, (16, 16), mode=mode)
                noise = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in own])
                if "noise" in options:
                    means = interpolate(noise, (8, 8), mode="area") - low_noise / 2
                    noise = noise - interpolate(means, (16, 16), mode="nearest-exact")
                x = scheduler.add_noise(x0, noise, scheduler.timesteps[i + 1 : i + 2])
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_pixels_are_counted_as_work_of_the_vae(emoji):
    def count(*methods):
        return count_macs(emoji, lambda: draw(accelerate(emoji, methods)))

    latent, pixel = count(MixedResolution(switch=2)), count(MixedResolution(switch=2, space="pixel"))
    assert latent["denoiser"] == pixel["denoiser"]
    assert latent["vae"]["dense"] == 0 < pixel["vae"]["dense"]


@pytest.mark.parametrize(
    "name", ["sd", "sdxl", "sd3", "sana", "hunyuan", "dit", "upscale_x4", "animatediff", "text_to_video"]
)
def test_pixels_on_families(small, name):
    one, _ = small(name)
    latent = one.call(accelerate(one.pipe, [MixedResolution(switch=4)]))
    driver = accelerate(one.pipe, [MixedResolution(switch=4, space="pixel")])
    pixel = one.call(driver)
    assert torch.isfinite(pixel).all()
    assert not torch.equal(pixel, latent)
    torch.testing.assert_close(one.call(driver, [1]), pixel[1:], rtol=1e-4, atol=1e-4)


def video_vae():
    torch.manual_seed(0)
    mean, deviation = [0.5, -0.5, 0.25, 0.0], [2.0, 1.0, 0.5, 1.5]
    return AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True], latents_mean=mean,
        latents_std=deviation,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (2, 4, 3, 6, 6)], ids=["images", "videos"])
@pytest.mark.parametrize("build", [vae, video_vae])
def test_images_and_videos_by_either_kind_of_vae(build, shape):
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = pixel_space.enlarge(build(), latents, (9, 9), "bicubic")
        alone = pixel_space.enlarge(build(), latents[1:], (9, 9), "bicubic")
    assert found.shape == (*shape[:-2], 9, 9)
    torch.testing.assert_close(found[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_scale_of_latents_is_the_pipelines():
    """Decoded latents times std / scaling plus mean, as pipelines hand them to such a VAE; and back."""
    own = vae()
    own.register_to_config(scaling_factor=0.5, latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[1.0, 0.5, 2.0, 4.0])
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = latents * torch.tensor([1.0, 0.5, 2.0, 4.0]).view(1, 4, 1, 1) / 0.5
        pixels = pixel_space.decode(own, latents)
        assert torch.equal(pixels, own.decode(raw + torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)).sample)
        back = own.encode(pixels).latent_dist.mode() - torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        back = back * 0.5 / torch.tensor([1.0, 0.5, 2.0, 4.0]).view(1, 4, 1, 1)
        torch.testing.assert_close(pixel_space.encode(own, pixels), back)
        own.register_to_config(latents_mean=None, latents_std=None, shift_factor=0.25)
        assert torch.equal(pixel_space.decode(own, latents), own.decode(latents / 0.5 + 0.25).sample)


SHIFTED = {"switch": 4, "history": "reset", "shift": 1.0}


@pytest.mark.parametrize(
    "name",
    ["sd_dpm++", "sd_dpm++_karras", "sd_euler", "sd_euler_ancestral", "sd_unipc", "sd_heun", "sd3", "flux"],
)
def test_low_steps_have_the_levels_of_their_size(case, name):
    """Noise over signal is halved at half the side, but for the first step; the network is told so."""
    one = case(name)
    order = getattr(one.pipe.scheduler, "order", 1)
    one.call(one.pipe)
    scheduler = one.pipe.scheduler
    plain, times = noise_levels.ratios(scheduler, scheduler.timesteps), scheduler.timesteps.clone()
    message = []

    def around(forward, *args, **kwargs):
        message.append(float(torch.as_tensor(kwargs.get("timestep", args[1] if len(args) > 1 else None)).flatten()[0]))
        return forward(*args, **kwargs)

    methods = [MixedResolution(**{**SHIFTED, "switch": 4 * order})]
    with intercept(one.pipe.unet if hasattr(one.pipe, "unet") else one.pipe.transformer, "forward", around):
        image = one.call(accelerate(one.pipe, methods))
    assert torch.isfinite(image).all()
    shifted = noise_levels.ratios(scheduler, scheduler.timesteps)
    low = slice(1, 4 * order - 1 if order > 1 else 4)
    torch.testing.assert_close(shifted[low], [level / 2 for level in plain[low]], rtol=0.05, atol=0)
    assert shifted[0] == plain[0]
    assert torch.equal(scheduler.timesteps[4 * order :], times[4 * order :])
    scale = 1000 if name == "flux" else 1
    torch.testing.assert_close(torch.tensor(message) * scale, scheduler.timesteps.float(), rtol=1e-4, atol=1e-2)
    one.call(one.pipe)
    assert torch.equal(scheduler.timesteps, times), "the plain pipeline keeps the shift"


def test_shifted_run_equals_two_solvers_of_that_schedule():
    """DPM-Solver++, which takes timesteps: one solver for the low steps, a new one from the switch on."""
    one = sd("dpm++")
    one.pipe.set_progress_bar_config(disable=True)
    start = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    ours = one.call(accelerate(one.pipe, [MixedResolution(**SHIFTED)]), latents=start)
    times = one.pipe.scheduler.timesteps.tolist()
    arguments = one.arguments([0, 1])
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    low, high = (DPMSolverMultistepScheduler(**BETAS) for _ in range(2))
    for solver, first in ((low, 0), (high, 4)):
        solver.set_timesteps(timesteps=times)
        solver.set_begin_index(first)
    x = resize(start, (8, 8))
    with torch.no_grad():
        for i in range(STEPS):
            solver = low if i < 4 else high
            t = solver.timesteps[i]
            u, c = one.pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample.chunk(2)
            guided, before = u + 5.0 * (c - u), x
            x = solver.step(guided, t, before).prev_sample
            if i == 3:
                a = solver.alphas_cumprod[int(t)]
                x0 = interpolate((before - (1 - a).sqrt() * guided) / a.sqrt(), (16, 16), mode="bilinear")
                noise = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in arguments["generator"]])
                a = solver.alphas_cumprod[times[4]]
                x = a.sqrt() * x0 + (1 - a).sqrt() * noise
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_younger_options_do_not_change_older_identities():
    plain = describe([MixedResolution()])[0]["mixed_resolution"]
    assert list(plain) == [
        "beta", "switch", "upsampling", "x0", "noise", "renoise", "history", "micro_conditioning",
    ]  # fmt: skip
    other = describe([MixedResolution(space="pixel", shift=0.5, history="reset")])[0]["mixed_resolution"]
    assert (other["space"], other["shift"]) == ("pixel", 0.5)
