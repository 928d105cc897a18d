"""SADA on data of which the best prediction is known: the same calls and latents as a loop written out."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from postdiff import accelerate
from postdiff.engine import noise_levels
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.engine.skipped_calls import Seen
from postdiff.methods import SADA
from postdiff.methods.sada.method import _lagrange
from tests.support.slow_run import reference_of, slow_run
from tests.support.solvers import solver
from tests.support.subjects import IMAGES, at_work, case_of, close, drawn
from tests.support.tiny import build

VARIANCE = 0.01
KEPT = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


def best_noise(x, alpha, sigma):
    """Every number of an image is from one of two Gaussians, about 1 and about -1."""
    total = alpha**2 * VARIANCE + sigma**2
    of_first = torch.sigmoid(2 * alpha * x / total)
    x0 = (alpha * VARIANCE * x + sigma**2 * (2 * of_first - 1)) / total
    return (x - alpha * x0) / sigma


def loop(x, steps, method):
    """(steps at which one image is computed, its latents), by DDIM; x: its noise."""
    times = [(steps - 1 - i) * (1000 // steps) + 1 for i in range(steps)]
    first, last, late = (int(step * steps / 50 + 0.5) for step in (method.first, method.last, method.late))
    f, nodes, made, in_a_row, skip, ahead = [], [], [], 0, False, x
    for i, t in enumerate(times):
        alpha, sigma = KEPT[t].sqrt(), (1 - KEPT[t]).sqrt()
        if not skip:
            e = best_noise(x, alpha, sigma)
            x0 = (x - sigma * e) / alpha
            made.append(i)
            in_a_row = 0
        else:
            in_a_row += 1
            known = nodes[-method.terms :]
            x0 = (ahead - sigma * e) / alpha if i <= late else sum(weight(known, s, i) * y for s, y in known)
        beta = 1 - KEPT[t] / KEPT[t - 1]
        f.append(beta / 2 * (e / sigma - x))
        if i % method.interval == 1:
            nodes.append((i, x0))
        after = KEPT[times[i + 1]] if i + 1 < steps else torch.tensor(1.0, dtype=torch.float64)
        following = after.sqrt() * x0 + (1 - after).sqrt() * (x - alpha * x0) / sigma
        skip = False
        if first <= i < steps - last:
            length = t - times[i + 1] if method.scale == "ode" else 1
            ahead = x - length * (5 / 8 * f[-1] + 3 / 4 * f[-2] - 3 / 8 * f[-3])
            stable = ((following - ahead) * (f[-1] - 2 * f[-2] + f[-3])).mean() <= 0
            skip = i % method.interval != 0 if i >= late else bool(stable) and in_a_row < method.most
        x = following
    return made, x


def weight(nodes, s, t):
    return math.prod((t - other) / (s - other) for other, _ in nodes if other != s)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("steps", [50, 25])
@pytest.mark.parametrize("options", [{}, {"scale": "ode"}, {"most": 1, "interval": 3, "terms": 2, "late": 30}])
def test_equals_a_loop_on_data_of_two_gaussians(name, steps, options):
    """In both solvers' coordinates: they make the same steps."""
    case, calls, noise = build("sd", smallest=True), Counter(), []
    case.pipe.scheduler = solver(name, timestep_spacing="leading", steps_offset=1)

    def network(forward, sample, timestep, **kwargs):
        noise.append(sample)
        calls[round(float(timestep))] += len(sample)
        kept = KEPT[round(float(timestep))]
        return (best_noise(sample.double(), kept.sqrt(), (1 - kept).sqrt()).float(),)

    with intercept(case.pipe.unet, "forward", network):
        fast = accelerate(case.pipe, [SADA(**options)])
        found = case.call(fast, list(IMAGES), num_inference_steps=steps, guidance_scale=1.0)
    expected = [loop(x, steps, SADA(**options)) for x in noise[0].double()]
    made = Counter((steps - 1 - i) * (1000 // steps) + 1 for steps_made, _ in expected for i in steps_made)
    assert calls == made
    early = {*range(int(SADA(**options).late * steps / 50 + 0.5))}
    assert any(early - {*steps_made} for steps_made, _ in expected), "the criterion left nothing out"
    close(found, torch.stack([x for _, x in expected]).float(), 1e-4)


@pytest.mark.parametrize("scale", ["code", "ode"])
def test_criterion_in_double_precision(scale):
    scheduler = solver("DDIMScheduler", steps_offset=1)
    scheduler.set_timesteps(50)
    state = SimpleNamespace(scheduler=scheduler, timesteps=scheduler.timesteps, steps=50)
    rule, past, f = SADA(scale=scale).rule(state), SimpleNamespace(), []
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for state.index in range(10, 13):
        t = scheduler.timesteps[state.index]
        alpha, sigma = noise_levels.level(scheduler, t)
        e = best_noise(x, alpha.double(), sigma.double())
        rule.note(past, Seen(x, alpha, sigma, t, e, (x - sigma * e) / alpha, False), state)
        at, of = x / (alpha**2 + sigma**2).sqrt(), sigma / (alpha**2 + sigma**2).sqrt()
        f.append(float(scheduler.betas[t]) / 2 * (e / of - at))
        alpha, sigma = noise_levels.level(scheduler, scheduler.timesteps[state.index + 1])
        x = alpha * (x - sigma * e) + sigma * e
    ahead = at - (20 if scale == "ode" else 1) * (5 / 8 * f[2] + 3 / 4 * f[1] - 3 / 8 * f[0])
    expected = ((x / (alpha**2 + sigma**2).sqrt() - ahead) * (f[2] - 2 * f[1] + f[0])).mean()
    found = rule.measure(past, x, alpha, sigma, state)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(f[2].abs().mean() ** 2))


def test_polynomial_between_calls():
    """Exact for cubics; the sums of its weights' absolute values 1, 2 and 3 steps on, which is what errors grow by."""
    steps, one = [25, 29, 33, 37], torch.eye(4, dtype=torch.float64)
    found = [float(_lagrange(list(zip(steps, one, strict=True)), step).abs().sum()) for step in (38, 39, 40)]
    assert found == pytest.approx([3.1, 6.0, 9.9], abs=0.05)
    cubic = [torch.tensor(0.1 * (s - 30) ** 3 - s, dtype=torch.float64) for s in [*steps, 40]]
    torch.testing.assert_close(_lagrange(list(zip(steps, cubic[:4], strict=True)), 40), cubic[4])


@pytest.mark.parametrize("family", ["sana", "wan"])
def test_images_that_decide_apart(family):
    """Also the code's own rule for flows: each is that image alone, and what a loop makes of it."""
    case, setting, _ = case_of(family)
    found, work = at_work(case, [SADA()])
    assert work.apart(), "all images decided alike"
    for i in IMAGES:
        close(found[i : i + 1], drawn(case, [SADA()], [i]))
    close(found, slow_run(case, setting, IMAGES, reference_of([SADA()], setting)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": -1}, "SADA: first=-1 must be 0 or more"),
        ({"last": 1}, "last=1 must be 2 or more"),
        ({"interval": 0}, "interval=0 must be 1 or more"),
        ({"terms": 0}, "terms=0 must be 1 or more"),
        ({"scale": "cod"}, "unknown scale of SADA 'cod'; did you mean 'code'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        SADA(**options)


def test_solvers_without_a_training_schedule_are_refused():
    case = build("sd", smallest=True)
    case.pipe.scheduler = solver("EDMEulerScheduler")
    with pytest.raises(UsageError, match="EDMEulerScheduler keeps no training schedule"):
        case.call(accelerate(case.pipe, [SADA()]))
