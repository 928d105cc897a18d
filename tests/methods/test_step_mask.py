"""Step masks: published ones, mistakes in one's own, and what is exact where the path to the image is straight."""

import inspect
import math

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.methods import StepMask
from postdiff.methods.step_mask.method import RUNS, _nearest
from tests.support.straight import PREDICTIONS, levels, straight
from tests.support.tiny import STEPS, build, sd
from tests.support.work import watched


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("slow", "1111111101110011100110010001"),
        ("medium", "1111110110001100011000110001"),
        ("fast", "1111110100010000100000100001"),
        ("ultra", "1111001000001000000100000001"),
    ],
)
def test_published_masks(name, mask):
    assert sum(RUNS[name]) == len(mask) == 28
    assert _nearest(name, 28) == [step for step, computed in enumerate(mask) if computed == "1"]
    for steps in (2, 4, 9, 20, 50, 100):
        found = _nearest(name, steps)
        assert found[0] == 0 and found[-1] == steps - 1, "the first and the last step are computed"
    assert abs(len(_nearest(name, 100)) / 100 - mask.count("1") / 28) < 0.04
    assert _nearest(name, 1) == [0]


@pytest.mark.parametrize(
    ("computed", "expected"), [([0, 1, 5], [0, 1, 5]), (3, [0, 3, 6]), ("ultra", [0, 3, 5, 7]), (1, range(STEPS))]
)
def test_the_network_runs_at_the_listed_steps_alone(computed, expected):
    case = sd("ddim", pixels=16)
    driver = accelerate(case.pipe, [StepMask(computed)])
    with watched(case.pipe, case.pipe.unet) as work:
        case.call(driver)
    assert work.steps == {*expected} and driver.counts["network calls"] == len(expected)


@pytest.mark.parametrize("fill", ["output", "residual", "linear"])
def test_equals_a_loop(fill):
    """DDIM written out."""
    case, listed = sd("ddim", pixels=16), [0, 1, 3, 6]
    unet, scheduler, arguments = case.pipe.unet, case.pipe.scheduler, case.arguments([0, 1])
    found = case.call(accelerate(case.pipe, [StepMask(listed, fill)]))
    scheduler.set_timesteps(STEPS)
    x = torch.cat([torch.randn(1, 4, 8, 8, generator=one) for one in arguments["generator"]])
    text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
    kept = []
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            both = torch.cat([x, x])
            if i in listed:
                kept.append((i, both, unet(both, t, encoder_hidden_states=text).sample))
            k, x_k, y = kept[-1]
            if i != k and fill == "residual":
                y = both + (y - x_k)
            if i != k and fill == "linear" and len(kept) > 1:
                before, _, y_before = kept[-2]
                y = y + (y - y_before) / (k - before) * (i - k)
            u, c = y.chunk(2)
            x = scheduler.step(u + arguments["guidance_scale"] * (c - u), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("computed", "message"),
    [
        ([1, 2], r"computed=\[1, 2\] must be a list that begins with step 0"),
        ([], "must be a list that begins with step 0"),
        ([0, 3, 2], "must be rising, each step once"),
        ([0, 2, 2], "must be rising, each step once"),
        (0, "must be a stride of 1 or more"),
        ("mediun", "unknown computed of StepMask 'mediun'; did you mean 'medium'"),
        ([0, 1.5], "must be int"),
        (True, "must be int"),
    ],
)
def test_mistakes_are_told(computed, message):
    with pytest.raises(UsageError, match=message) as error:
        StepMask(computed)
    assert "\n" not in str(error.value)


def test_a_mask_that_does_not_fit_the_run():
    with pytest.raises(UsageError, match=f"step 9 is beyond this run of {STEPS} steps; use 0..{STEPS - 1}"):
        case = sd("ddim", pixels=16)
        case.call(accelerate(case.pipe, [StepMask([0, 9])]))
    with pytest.raises(UsageError, match="fill of StepMask 'lines'; did you mean 'linear'"):
        StepMask(fill="lines")


def test_a_solver_of_two_calls_a_step_has_both_computed_or_neither():
    heun = sd("heun", pixels=16)
    with watched(heun.pipe, heun.pipe.unet) as work:
        heun.call(accelerate(heun.pipe, [StepMask(2)]))
    assert work.step == 2 * STEPS - 1 and work.steps == {0, 1, 4, 5, 8, 9, 12, 13}
    with watched(heun.pipe, heun.pipe.unet) as work:
        heun.call(accelerate(heun.pipe, [StepMask([0, 1, 4, 5, 14])]))
    assert work.steps == {0, 1, 4, 5, 14}, "the last step has one call"
    for odd, missing in (([0, 2, 3], "0 is in the mask without 1"), ([0, 1, 5], "5 is in the mask without 4")):
        with pytest.raises(UsageError, match=f"HeunDiscreteScheduler calls the network 2 times a step, and {missing}"):
            heun.call(accelerate(heun.pipe, [StepMask(odd)]))


@pytest.mark.parametrize("family", ["controlnet", "controlnet_guess", "controlnets"])
def test_no_controlnet_is_called_where_the_network_is_not(family):
    case = build(family, smallest=True)
    driver = accelerate(case.pipe, [StepMask(2)])
    case.call(driver)
    assert driver.counts["network calls"] == driver.counts["controlnet calls"] == 3


def predictions(case, methods):
    """(what the solver is given, x, level) of every step, and the final latents."""
    found = []

    def note(forward, *args, **kwargs):
        given = inspect.signature(forward).bind(*args, **kwargs).arguments
        found.append((given["model_output"], given["sample"], levels(case.pipe.scheduler, given["timestep"])))
        return forward(*args, **kwargs)

    with intercept(case.pipe.scheduler, "step", note):
        latents = case.call(accelerate(case.pipe, methods))
    return found, latents


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("fill", ["output", "residual", "linear"])
def test_the_error_on_a_straight_path(fill, prediction):
    """Where x0 and noise stay the same, output and line are exact for noise and flow; all else is off by so much."""
    case = straight(prediction)
    true, image = predictions(case, [])
    found, latents = predictions(case, [StepMask([0, 2, 4, 6], fill)])
    exact = fill != "residual" and prediction != "v_prediction"
    torch.testing.assert_close(latents, image, rtol=1e-12, atol=1e-12) if exact else None
    assert exact == bool((latents - image).abs().max() < 1e-9)
    if fill == "linear":
        return
    for t in (1, 3, 5, 7):
        (y, x, (alpha, sigma)), (y_true, _, _), (_, before, (alpha_k, sigma_k)) = found[t], true[t], found[t - 1]
        if prediction == "v_prediction":  # turned by the angle between the two levels
            x0, noise = case.pipe.unet.known
            turn = math.atan2(sigma_k, alpha_k) - math.atan2(sigma, alpha)
            y_true = math.cos(turn) * y_true - math.sin(turn) * (alpha * x0 + sigma * noise)
        if fill == "residual":
            y_true = y_true + (x - before)
        torch.testing.assert_close(y, y_true, rtol=1e-6, atol=1e-6)
        if (fill, prediction) == ("residual", "flow_prediction"):
            torch.testing.assert_close(y, true[t][0] * (1 - abs(sigma - sigma_k)), rtol=1e-6, atol=1e-6)
