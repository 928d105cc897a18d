"""Mixed resolution by waves: the noisy latent enlarged, the level after a switch raised, the switch found by a law."""

import json
import math

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.macs import count_macs
from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.grid import resize
from postdiff.engine.state import State
from postdiff.methods import MixedResolution
from postdiff.presets import describe
from tests.support.every_solver import EVERY, SOLVERS, WEIGHTS, case_of, perfect, run, take_over
from tests.support.recorder import Recorder
from tests.support.tiny import STEPS

SPEED = {"space": "cosine", "renoise": "aligned"}
HAAR = {"upsampling": "nearest-exact", "noise": "correlated", "renoise": "aligned"}
BETWEEN = {"kdpm2", "kdpm2_ancestral"}  # their levels cannot be rewritten
# Of the tiny Stable Diffusion's latents.
LAW = {"amplitude": 4.0, "exponent": 1.5, "height": 16, "width": 16, "channels": 4, "scaling": 0.18215}


@pytest.mark.slow
@pytest.mark.parametrize("renoise", ["next", "aligned"])
@pytest.mark.parametrize("name", EVERY)
def test_a_network_that_knows_the_image_is_reported_the_noise_there_is(name, renoise, monkeypatch):
    """A flat image has nothing in the new band, so the enlarged latents are white noise of just the told strength."""
    if renoise == "aligned" and name in {*BETWEEN, "lms"}:
        pytest.skip("refused, see below")
    one = case_of(name)
    clean = 0.5 * torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(5))
    take_over(one, perfect(one.pipe.scheduler, clean), monkeypatch)
    _, latents, levels, [end] = run(one, [MixedResolution(switch=4, space="cosine", renoise=renoise)])
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


def looks(inputs, timestep, text):
    """In the place of a network: looks at neighbours and time."""
    return torch.nn.functional.conv2d(inputs, WEIGHTS, padding=1).tanh() * (1 + 1e-3 * timestep)


def slope(kind, x, level, time):
    """dx / d level of Euler's latents x0 + level noise, or of a flow's."""
    if kind == "flow":
        return looks(x, time, None)
    output = looks(x / (level**2 + 1).sqrt(), time, None)
    if kind == "euler":
        return output
    x0 = x / (level**2 + 1) - level / (level**2 + 1).sqrt() * output
    return (x - x0) / level


def matrices(basis, low=4, full=8):
    """E, from so many pixels to twice as many."""
    if basis == "haar":
        return torch.eye(low).repeat_interleave(2, 0) / math.sqrt(2)

    def waves(side):
        k, j = torch.arange(float(low))[:, None], torch.arange(float(side))
        heights = torch.full((low, 1), math.sqrt(2 / side))
        heights[0] = math.sqrt(1 / side)
        return heights * torch.cos(math.pi * (2 * j + 1) * k / (2 * side))

    return waves(full).T @ waves(low)


@torch.no_grad()
@pytest.mark.parametrize(("basis", "options"), [("cosine", SPEED), ("haar", HAAR)], ids=["cosine", "haar"])
@pytest.mark.parametrize("kind", ["euler", "euler_v", "flow"])
def test_a_run_equals_the_noisy_latent_enlarged_by_matrices(kind, basis, options, monkeypatch):
    """4 native steps on the small grid; the latents at hand enlarged and scaled; 4 steps from the raised level on."""
    one = case_of(kind)
    take_over(one, looks, monkeypatch)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    given = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    ours = run(one, [MixedResolution(switch=4, **options)], latents=start, generator=given)[0]

    scheduler = one.pipe.scheduler
    scheduler.set_timesteps(STEPS)
    levels, times = scheduler.sigmas.clone(), scheduler.timesteps.float().clone()
    x = resize(start * (1.0 if kind == "flow" else scheduler.init_noise_sigma), (4, 4))
    for i in range(4):
        x = x + (levels[i + 1] - levels[i]) * slope(kind, x, levels[i], times[i])
    sigma, E = levels[4], matrices(basis)
    fresh = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    x = E @ x @ E.T + sigma * (fresh - E @ E.T @ fresh @ E @ E.T)
    if kind == "flow":
        kappa = 2 / (1 + sigma)
        levels[4], times[4], x = kappa * sigma, 1000 * kappa * sigma, kappa * x
    else:
        levels[4], x = 2 * sigma, 2 * x
        table = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log()
        above = int((table < levels[4].log()).sum())
        times[4] = above - 1 + (levels[4].log() - table[above - 1]) / (table[above] - table[above - 1])
    for i in range(4, STEPS):
        x = x + (levels[i + 1] - levels[i]) * slope(kind, x, levels[i], times[i])
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["flux", "flux_cfg", "sd3", "qwen_image"])
def test_packed_latents_are_enlarged_on_their_own_grid(small, name, monkeypatch):
    """The latents at hand, as a run that stays small has them, enlarged by matrices; packed in squares or not."""
    one, _ = small(name)
    stays, goes = Recorder(), Recorder()
    one.call(accelerate(one.pipe, [stays, MixedResolution(switch=5, space="cosine")]))
    full, block = stays.latents[3].shape[-2:], 1 if name == "sd3" else 2
    low = tuple(side // 2 for side in full)
    fresh = torch.randn(stays.latents[3].shape, generator=torch.Generator().manual_seed(9))
    monkeypatch.setattr(State, "noise", lambda state, like: fresh)
    sigma = one.pipe.scheduler.sigmas[4].clone()
    one.call(accelerate(one.pipe, [goes, MixedResolution(switch=4, **SPEED)]))
    x = resize(stays.latents[3], low, block=block)
    rows, columns = (matrices("cosine", side, 2 * side) for side in low)
    x = rows @ x @ columns.T + sigma * (fresh - rows @ rows.T @ fresh @ columns @ columns.T)
    torch.testing.assert_close(goes.latents[3], 2 / (1 + sigma) * x, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddim", "ddim_v"])
def test_without_a_list_of_levels_the_next_level_is_gone_to(name, monkeypatch):
    """x0 and noise of the last small step, in the large basis, at the level of the next: written out for DDIM."""
    one = case_of(name)
    take_over(one, looks, monkeypatch)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    given = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    ours = run(one, [MixedResolution(switch=4, **SPEED)], latents=start, generator=given)[0]
    scheduler, E = one.pipe.scheduler, matrices("cosine")
    scheduler.set_timesteps(STEPS)
    x = resize(start, (4, 4))
    for i, t in enumerate(scheduler.timesteps):
        moved = scheduler.step(looks(x, t, None), t, x)
        if i == 3:
            now, then = (scheduler.alphas_cumprod[time] for time in scheduler.timesteps[3:5])
            x0 = moved.pred_original_sample
            eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
            fresh = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2)])
            white = E @ eps @ E.T + fresh - E @ E.T @ fresh @ E @ E.T
            x = then.sqrt() * 2 * E @ x0 @ E.T + (1 - then).sqrt() * white
        else:
            x = moved.prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "pndm", "ddpm", "lcm", "tcd"])
def test_aligned_is_next_where_there_is_no_list_of_levels(name):
    images = []
    for renoise in ("next", "aligned"):
        one = case_of(name)
        images.append(run(one, [MixedResolution(switch=4, space="cosine", renoise=renoise)])[0])
    assert torch.equal(*images)


@pytest.mark.parametrize("options", [SPEED, HAAR], ids=["cosine", "haar"])
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd_dpm++", "sd_euler", "sd_unipc", "sd_heun", "sd3", "flux", "wan"])
def test_the_level_after_each_switch_is_raised_by_the_ratio_of_the_sides(small, name, options):
    one, _ = small(name)
    order = getattr(one.pipe.scheduler, "order", 1)
    one.call(one.pipe)
    scheduler = one.pipe.scheduler
    plain, times = noise_levels.ratios(scheduler, scheduler.timesteps), scheduler.timesteps.clone()
    driver = accelerate(one.pipe, [MixedResolution(beta=[0.5, 0.75], switch=[3 * order, 6 * order], **options)])
    assert torch.isfinite(one.call(driver)).all()
    raised = noise_levels.ratios(scheduler, scheduler.timesteps)
    for step, (before, after) in enumerate(zip(plain, raised, strict=True)):
        expected = {3 * order: 1.5, 6 * order: 4 / 3}.get(step, 1.0)
        assert after == before or after / before == pytest.approx(expected, rel=0.02)
        assert (after != before) == (expected != 1)
    one.call(one.pipe)
    assert torch.equal(scheduler.timesteps, times), "the plain pipeline keeps the raised level"


@pytest.mark.parametrize("name", ["sd_euler", "sd_pndm", "flux", "wan", "dit", "animatediff"])
def test_an_image_does_not_depend_on_its_batch(small, name):
    one, _ = small(name)
    driver = accelerate(one.pipe, [MixedResolution(beta=[0.5, 0.75], switch=[3, 5], **SPEED)])
    together = one.call(driver, [0, 1, 2])
    torch.testing.assert_close(one.call(driver, [1]), together[1:2], rtol=1e-4, atol=1e-4)
    assert not torch.equal(together[1], together[2])


class Stops(Exception):
    pass


def test_an_exception_leaves_nothing_behind(small):
    one, expected = small("sd_euler")

    def stop(pipe, index, timestep, given):
        if index == 5:
            raise Stops
        return given

    with pytest.raises(Stops):
        one.call(accelerate(one.pipe, [MixedResolution(switch=4, **SPEED)]), callback_on_step_end=stop)
    assert "set_timesteps" not in vars(one.pipe.scheduler)
    assert torch.equal(one.call(one.pipe), expected)


def test_the_work_of_enlarging_is_not_the_networks(small):
    one, _ = small("sd_euler")

    def macs(**options):
        return count_macs(one.pipe, lambda: one.call(accelerate(one.pipe, [MixedResolution(switch=4, **options)])))

    plain, ours = macs(), macs(**SPEED)
    assert ours["denoiser"] == plain["denoiser"]
    assert ours["vae"] == plain["vae"]
    assert ours["total"]["dense"] > plain["total"]["dense"], "its two products are counted"


def small_steps(one, **options):
    recorder = Recorder()
    image = one.call(accelerate(one.pipe, [MixedResolution(switch="auto", **options), recorder]))
    assert torch.isfinite(image).all()
    calls = len(recorder.sizes) // STEPS  # separate calls of guidance
    return [side for side, _ in recorder.sizes[::calls]], image


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["sd_ddim", "sd_dpm++", "sd_euler"])
def test_the_switch_is_found_by_the_law(case, name, strict):
    """Of the unraised levels the first at which a wave of 4 cycles, half the highest, matters."""
    one = case(name)
    one.call(one.pipe)
    ratios = noise_levels.ratios(one.pipe.scheduler, one.pipe.scheduler.timesteps)
    power = 4.0 * 4.0**-1.5
    limit = math.sqrt(power * (1 + power - 0.1) / 0.1) / (2 if strict else 1)
    expected = sum(ratio > limit for ratio in ratios)
    assert 0 < expected < STEPS
    sides, image = small_steps(one, spectrum=LAW, tolerance=0.1, strict=strict, **SPEED)
    assert sides == [8] * expected + [16] * (STEPS - expected)
    given = one.call(accelerate(one.pipe, [MixedResolution(switch=expected, **SPEED)]))
    assert torch.equal(image, given), "the same switch, given as a number"


def test_with_two_calls_a_step_the_switch_is_where_a_step_begins(case):
    one = case("sd_heun")
    one.call(one.pipe)
    ratios = noise_levels.ratios(one.pipe.scheduler, one.pipe.scheduler.timesteps)
    recorder, [limit] = Recorder(), [math.sqrt(0.5 * 1.4 / 0.1)]
    one.call(accelerate(one.pipe, [MixedResolution(switch="auto", spectrum=LAW, tolerance=0.1, **SPEED), recorder]))
    [end] = recorder.boundaries
    assert end % 2 == 0 and ratios[end] <= limit < ratios[end - 2]


def test_two_switches_are_found(case):
    one = case("sd_euler")
    sides, _ = small_steps(one, beta=[0.25, 0.5], spectrum={**LAW, "exponent": 2.0}, tolerance=0.03, **SPEED)
    assert sorted(set(sides)) == [4, 8, 16] and sides == sorted(sides)


def test_a_spectrum_by_name_in_a_file_and_as_numbers_is_one(tmp_path):
    by_name = MixedResolution(switch="auto", spectrum="emoji")
    assert by_name.spectrum["height"] == 16
    file = tmp_path / "law.json"
    file.write_text(json.dumps({"method": "mixed_resolution", "spectrum": by_name.spectrum}))
    by_file = MixedResolution(switch="auto", spectrum=str(file))
    assert by_file == by_name == MixedResolution(switch="auto", spectrum=by_name.spectrum)
    assert describe([by_name])[0]["mixed_resolution"]["spectrum"] == by_name.spectrum, "the numbers, not the name"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "cosin"}, "unknown space of MixedResolution 'cosin'; did you mean 'cosine'"),
        ({"renoise": "align"}, "unknown renoise of MixedResolution 'align'; did you mean 'aligned'"),
        ({"space": "cosine", "upsampling": "bicubic"}, "upsampling='bicubic' must be left out where space is 'cosine'"),
        ({"space": "cosine", "noise": "shared"}, "noise='shared' must be left out where space is 'cosine'"),
        ({"shift": 1.0, "history": "reset", **SPEED}, "renoise='aligned' must be 'next' where shift is not 0"),
        ({"switch": "auto"}, "spectrum=None must be given where switch is 'auto'"),
        ({"switch": "atuo"}, "switch='atuo' must be"),
        ({"switch": ["auto"]}, "switch=.* must be"),
        (
            {"switch": "auto", "spectrum": LAW, "shift": 1.0, "history": "reset"},
            "switch='auto' must be no 'auto' where shift is not 0",
        ),
        ({"switch": "auto", "spectrum": "flux"}, "spectrum=flux is no calibration .* experiments/calibrate.py"),
        ({"spectrum": {"amplitude": 1.0}}, "must have the keys amplitude, exponent"),
        ({"spectrum": {**LAW, "amplitude": -1.0}}, "amplitude=-1.0 of spectrum must be a number above 0"),
        ({"spectrum": {**LAW, "exponent": math.nan}}, "spectrum=.* must be finite"),
        *(({"tolerance": each}, "tolerance=.* must be between 0 and 1") for each in (math.nan, 0.0, -0.1, 1.0, 30.0)),
        ({"tolerance": "small"}, "tolerance='small' must be float"),
        ({"strict": "yes"}, "strict='yes' must be bool"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message) as refused:
        MixedResolution(**options)
    assert "\n" not in str(refused.value)


AUTO = {"switch": "auto", "tolerance": 0.1, **SPEED}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sd_euler", {"beta": 0.25, "switch": 1, **SPEED}, "raises noise over signal at step 1 .*switch later"),
        ("sd_ddim", {**AUTO, "spectrum": "flux1"}, "with 16 channels scaled by 0.3611, and this pipeline's have 4"),
        ("sd_ddim", {**AUTO, "spectrum": "emoji"}, "with 4 channels scaled by 1, and this pipeline's have 4 scaled"),
        ("sd_ddim", {**AUTO, "spectrum": {**LAW, "height": 24}}, "of 24 x 16 latent pixels, and this run has 16 x 16"),
        ("sd_ddim", {**AUTO, "spectrum": {**LAW, "amplitude": 1e4}}, "finds no step of .* use a larger tolerance"),
        ("sd_ddim", {**AUTO, "spectrum": {**LAW, "amplitude": 1e-4}}, "finds every step of .* use a smaller tolerance"),
        ("lms", {"switch": 4, **SPEED}, "aligned', but LMSDiscreteScheduler cannot drop its history"),
        ("kdpm2", {"switch": 4, **SPEED}, "aligned': KDPM2DiscreteScheduler evaluates between .*='next'"),
        ("sdxl_img2img", {"switch": 1, **SPEED}, "renoise='aligned' needs a run that starts from pure noise"),
    ],
)  # fmt: skip
def test_refused_when_the_run_begins(case, name, options, message):
    one = case_of(name) if name in EVERY else case(name)
    driver = accelerate(one.pipe, [MixedResolution(**options)])
    with pytest.raises(UsageError, match=message) as refused:
        one.call(driver)
    assert "\n" not in str(refused.value)
    assert driver.counts["network calls"] == 0
    assert "set_timesteps" not in vars(one.pipe.scheduler)


def test_a_run_that_ends_before_its_solver_does_is_refused(case):
    one = case("sdxl")
    with pytest.raises(UsageError, match="aligned', but this pipeline does not run all steps that Euler.*='next'"):
        one.call(accelerate(one.pipe, [MixedResolution(switch=2, **SPEED)]), denoising_end=0.5)
    image = one.call(accelerate(one.pipe, [MixedResolution(switch=2, space="cosine")]), denoising_end=0.5)
    assert torch.isfinite(image).all()
