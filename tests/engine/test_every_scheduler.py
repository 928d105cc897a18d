"""Clean estimates and noise levels against every solver of diffusers, over all steps of a run."""

import inspect
import itertools

import diffusers.schedulers
import pytest
import torch

from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from tests.support.solvers import ABSENT, REFUSED, SERVED, solver

STEPS = 7
CASES = [
    pytest.param(name, settings, id=f"{name}-{'-'.join(f'{key}={value}' for key, value in settings.items())}")
    for name, all_settings in SERVED.items()
    for settings in all_settings
    if name not in ABSENT
]


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_solver_is_served_or_refused():
    """A new one fails here: say which."""
    found = {
        name
        for name in dir(diffusers.schedulers)
        if inspect.isclass(cls := getattr(diffusers.schedulers, name))
        and (hasattr(cls, "_backends") or hasattr(cls, "step"))
    }
    assert found - {"SchedulerMixin"} == set(SERVED) | set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_the_solver(name):
    settings, reason = REFUSED[name]
    with pytest.raises(UsageError, match=f"^{name} {reason}") as refusal:
        noise_levels.check(solver(name, **settings))
    assert len(str(refusal.value)) <= 300
    assert "use a solver" in str(refusal.value)


def stepped(scheduler, prediction, timestep, sample, before):
    """(the latents of the next step, x0 as the solver itself has it or None)."""
    known = inspect.signature(scheduler.step).parameters
    if "old_pred_original_sample" in known:
        back = None if before is None else before[0]
        return scheduler.step(prediction, before and before[1], timestep, back, sample)
    options = {"generator": torch.Generator().manual_seed(0)} if "generator" in known else {}
    moved = scheduler.step(prediction, timestep, sample, **options)
    for message in ("pred_original_sample", "denoised"):
        if getattr(moved, message, None) is not None:
            return moved.prev_sample, getattr(moved, message)
    return moved.prev_sample, None


def own_level(scheduler, index, timestep):
    """(alpha, sigma) as the solver's formulas have them at a step, or None where its own x0 is asked instead."""
    if not hasattr(scheduler, "_step_index"):
        kept = scheduler.alphas_cumprod[timestep]
        return kept.sqrt(), (1 - kept).sqrt()
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index])
    if hasattr(scheduler, "scale_noise"):
        return 1 - scheduler.sigmas[index], scheduler.sigmas[index]
    if hasattr(scheduler, "sigmas"):
        return torch.tensor(1.0), scheduler.sigmas[index]
    kept = scheduler.alphas_cumprod[timestep]  # LCM, TCD
    return kept.sqrt(), (1 - kept).sqrt()


def remembers_noise(scheduler):
    algorithm = getattr(scheduler.config, "algorithm_type", None)
    return algorithm in ("dpmsolver", "deis") or getattr(scheduler, "predict_x0", True) is False


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_x0_and_level_are_the_solvers_own_at_every_step(name, settings):
    scheduler = solver(name, **settings)
    scheduler.set_timesteps(STEPS)
    message = noise_levels.ratios(scheduler, scheduler.timesteps)
    sample, before = drawn(2, 4, 6, 6, seed=0) * float(getattr(scheduler, "init_noise_sigma", 1.0)), None
    for index, timestep in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        prediction = drawn(2, 4, 6, 6, seed=1 + index)
        ours = noise_levels.predict_x0(scheduler, prediction, timestep, sample)
        free = noise_levels.predict_x0(scheduler, prediction, timestep, sample, limited=False)
        back = noise_levels.prediction_of(scheduler, free, timestep, sample)
        torch.testing.assert_close(back, prediction, rtol=1e-6, atol=1e-8)
        alpha, sigma = noise_levels.level(scheduler, timestep)
        first = getattr(scheduler, "state_in_first_order", True)
        if first or name.endswith(("HeunDiscreteScheduler",)):
            torch.testing.assert_close((alpha, sigma), own_level(scheduler, index, timestep), check_dtype=False)
        assert message[index] == pytest.approx(float(sigma / alpha), rel=1e-6)
        moved, theirs = stepped(scheduler, prediction, timestep, sample, before)
        before = (timestep, theirs)
        if theirs is None and hasattr(scheduler, "model_outputs"):
            theirs = scheduler.model_outputs[-1]
            if remembers_noise(scheduler):
                theirs = (sample - sigma * theirs) / alpha
        if theirs is None:
            theirs = by_hand(scheduler, prediction, sample, alpha, sigma)
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=1e-5 * float(theirs.abs().max()))
        sample = moved.double()


def by_hand(scheduler, prediction, sample, alpha, sigma):
    """For solvers that keep x0 to themselves: PNDM, TCD, flow matching."""
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    return {
        "epsilon": (sample - sigma * prediction) / alpha,
        "v_prediction": alpha * sample - sigma * prediction,
        "flow_prediction": sample - sigma * prediction,
        "sample": prediction,
    }[kind]


@pytest.mark.parametrize("name", ["DDPMScheduler", "UnCLIPScheduler"])
def test_channels_of_a_learned_variance_are_left_out(name):
    options = {"variance_type": "learned_range"}
    scheduler = solver(name, **options)
    scheduler.set_timesteps(STEPS)
    timestep, sample, prediction = scheduler.timesteps[2], drawn(2, 4, 6, 6, seed=0), drawn(2, 8, 6, 6, seed=1)
    theirs = scheduler.step(prediction, timestep, sample).pred_original_sample
    torch.testing.assert_close(noise_levels.predict_x0(scheduler, prediction, timestep, sample), theirs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("EulerDiscreteScheduler", {}),
        ("DDIMScheduler", {}),
    ],
)
@pytest.mark.parametrize("start", [0, 5])
def test_steps_that_share_a_timestep_have_levels_of_their_own(name, settings, start):
    """Rounded timesteps of Karras' levels repeat where there is little noise, and in long runs."""
    scheduler = solver(name, **settings)
    scheduler.set_timesteps(60)
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    run = scheduler.timesteps[start:]
    message = noise_levels.ratios(scheduler, run)
    assert all(level > following for level, following in itertools.pairwise(message))
    sample = drawn(1, 4, 2, 2, seed=0).float()
    for index, timestep in enumerate(run):
        alpha, sigma = noise_levels.level(scheduler, timestep)
        assert float(sigma / alpha) == message[index]
        scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(sample, timestep, sample).prev_sample


def test_rows_at_different_timesteps_have_no_one_level():
    scheduler = solver("DDIMScheduler")
    scheduler.set_timesteps(STEPS)
    same = noise_levels.level(scheduler, scheduler.timesteps[:1].expand(3))
    assert same == noise_levels.level(scheduler, scheduler.timesteps[0])
    with pytest.raises(UsageError, match="at different timesteps, 0 to 852"):
        noise_levels.level(scheduler, scheduler.timesteps)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_the_inputs_have_lost(name, dtype):
    scheduler = solver(name)
    scheduler.set_timesteps(STEPS)
    timestep = scheduler.timesteps[0]
    sample, prediction = drawn(2, 4, 6, 6, seed=0) * float(scheduler.init_noise_sigma), drawn(2, 4, 6, 6, seed=1)
    sample, prediction = sample.to(dtype), prediction.to(dtype)
    ours = noise_levels.predict_x0(scheduler, prediction, timestep, sample)
    assert ours.dtype == dtype
    exact = noise_levels.predict_x0(scheduler, prediction.double(), timestep, sample.double())
    assert (
        torch.equal(ours, exact.to(dtype))
        or (ours.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()
    )
