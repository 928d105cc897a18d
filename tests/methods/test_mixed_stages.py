"""Mixed resolution in several stages, against loops written over network and solver."""

import copy
import itertools

import pytest
import torch
from torch.nn.functional import interpolate

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize
from postdiff.methods import MixedResolution
from tests.support.recorder import Recorder
from tests.support.tiny import STEPS, sd

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
SIDES = [8] * 3 + [12] * 2 + [16] * 3  # of 8 steps
STAGES = {"beta": [0.5, 0.75], "switch": [3, 5]}


def run(one, **options):
    recorder = Recorder()
    return one.call(accelerate(one.pipe, [recorder, MixedResolution(**options)]), latents=NOISE), recorder


def test_three_stages_equal_a_straight_loop():
    """Every stage is a native run of its size that starts from the re-noised latents: bit for bit, with guidance."""
    one = sd("ddim")
    one.pipe.set_progress_bar_config(disable=True)
    ours, recorder = run(one, **STAGES)
    arguments, scheduler = one.arguments([0, 1]), copy.deepcopy(one.pipe.scheduler)
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    scheduler.set_timesteps(STEPS)
    x = interpolate(NOISE, (8, 8), mode="nearest-exact")
    with torch.no_grad():
        for i, (t, next_side) in enumerate(zip(scheduler.timesteps, [*SIDES[1:], 16], strict=True)):
            u, c = one.pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample.chunk(2)
            moved = scheduler.step(u + 5.0 * (c - u), t, x)
            if next_side == SIDES[i]:
                x = moved.prev_sample
            else:
                x0 = interpolate(moved.pred_original_sample, (next_side, next_side), mode="bilinear")
                noise = torch.cat([torch.randn(x0[:1].shape, generator=g) for g in arguments["generator"]])
                x = scheduler.add_noise(x0, noise, scheduler.timesteps[i + 1 : i + 2])
            seen = resize(recorder.latents[i], (next_side, next_side))
            assert torch.equal(seen, x), f"step {i}"
    assert torch.equal(ours, x)


@pytest.mark.parametrize("name", ["sd_dpm++", "sd_heun", "sd_euler", "sd_unipc", "sd_pndm", "flux", "hunyuan"])
def test_sizes_and_boundaries(case, name):
    one = case(name)
    recorder = Recorder()
    order = getattr(one.pipe.scheduler, "order", 1)
    ends = [3 * order, 5 * order]
    image = one.call(accelerate(one.pipe, [MixedResolution(beta=[0.5, 0.75], switch=ends), recorder]))
    sides = [sum(size) // 2 for size, _ in itertools.groupby(recorder.sizes)]
    assert torch.isfinite(image).all()
    assert [side / sides[-1] for side in sides] == pytest.approx([0.5, 0.75, 1], abs=0.05)
    assert recorder.boundaries == set(ends)


def test_fractions_and_a_single_stage_in_a_list():
    one = sd("dpm++")
    one.pipe.set_progress_bar_config(disable=True)
    assert torch.equal(run(one, beta=[0.5], switch=[0.5])[0], run(one, beta=0.5, switch=0.5)[0])
    assert torch.equal(run(one, beta=[0.5, 0.75], switch=[0.375, 5])[0], run(one, **STAGES)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": [0.5, 0.75]}, "switch=0.5 must be as many as beta has, 2"),
        ({"beta": [], "switch": []}, "beta=.* between 0 and 1"),
        ({"beta": [0.5, 1.0], "switch": [2, 4]}, "beta=.* between 0 and 1"),
        ({"beta": [0.75, 0.5], "switch": [2, 4]}, "beta=.* must be rising"),
        ({"beta": [0.5, 0.75], "switch": [4, 2]}, "switch=.* must be rising"),
        ({"beta": [0.5, 0.75], "switch": [2, 2]}, "switch=.* must be rising"),
        ({"beta": [0.5, 0.75], "switch": [0.2, 1.5]}, "switch=.* must be a step"),
        ({"beta": [0.5, "all"], "switch": [2, 4]}, "beta=.* must be"),
        ({"shift": -1.0}, "shift=-1.0 must be from 0 to 2"),
        ({"shift": 1.0}, "history='bilinear' must be 'reset' where shift is not 0"),
        ({"shift": 1.0, "history": "reset", "renoise": "current"}, "renoise='current' must be 'next'"),
        ({"space": "pixels"}, "unknown space of MixedResolution 'pixels'; did you mean 'pixel'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        MixedResolution(**options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sd", {"beta": [0.5, 0.75], "switch": [4, 8]}, "leaves no step at full size in 8 steps"),
        ("sd", {"beta": [0.5, 0.75], "switch": [0, 4]}, "a stage without a step: of 8 steps the stages end at 0, 4"),
        ("sd", {"beta": [0.5, 0.75], "switch": [0.5, 3]}, "a stage without a step: of 8 steps the stages end at 4, 3"),
        ("sd", {"beta": [0.5, 0.51], "switch": [2, 4]}, "two stages of 8 x 8 latent pixels; take them further apart"),
        ("flux", {"space": "pixel"}, "space='pixel' needs a VAE, and this pipeline has none"),
        ("deepfloyd_if", {"space": "pixel"}, "space='pixel' needs a VAE, and this pipeline has none"),
        ("sd_ddim", {"shift": 1.0, "history": "reset"}, "DDIMScheduler keeps no list of noise levels"),
        ("sd_pndm", {"shift": 1.0, "history": "reset"}, "PNDMScheduler keeps no list of noise levels"),
        (
            "sd_euler",
            {"shift": 2.0, "history": "reset", "beta": 0.01, "switch": 7},
            "less noise than the network knows",
        ),
    ],
)
def test_refused_when_the_run_begins(case, name, options, message):
    one = case(name)
    with pytest.raises(UsageError, match=message):
        one.call(accelerate(one.pipe, [MixedResolution(**options)]))
    assert "set_timesteps" not in vars(one.pipe.scheduler)
