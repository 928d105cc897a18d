"""LazyCache: the loop at the solver's step, its error on a straight path, its window, and what it does not call."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from postdiff import accelerate
from postdiff.cost.structures import real_size
from postdiff.engine.errors import UsageError
from postdiff.engine.skipped_calls import Seen
from postdiff.methods import DeepCache, EncoderPropagation, LazyCache
from postdiff.methods.base import Method
from tests.support.slow_run import reference_of, slow_run
from tests.support.solvers import solver
from tests.support.subjects import IMAGES, at_work, case_of, close
from tests.support.tiny import build

ALWAYS = 1e9  # skips as soon as the rate is known


@pytest.mark.parametrize("family", ["sd_euler", "sd_dpm++", "sd_euler_v", "text_to_video", "dit", "sd3"])
@pytest.mark.parametrize("options", [{"threshold": 0.2}, {"threshold": 0.3, "stride": 1, "begin": 0.0, "end": 1.0}])
def test_equals_a_loop_at_the_solvers_step(family, options):
    case, setting, _ = case_of(family)
    found, _ = at_work(case, [LazyCache(**options)])
    close(found, slow_run(case, setting, IMAGES, reference_of([LazyCache(**options)], setting)))


def test_on_a_straight_path_x0_is_off_by_the_change_of_the_noise_level():
    """x0 and noise do not change: x0 is guessed as x0 + (sigma_t / alpha_t - sigma_k / alpha_k) noise."""
    x0, noise = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = SimpleNamespace(scheduler=solver("DDIMScheduler"), timesteps=torch.tensor([600.0, 400.0]), index=0, steps=2)
    rule, past = LazyCache().rule(state), SimpleNamespace()

    def seen(alpha, sigma, skipped):
        alpha, sigma = torch.tensor([alpha, sigma], dtype=torch.float64)
        return Seen(alpha * x0 + sigma * noise, alpha, sigma, torch.tensor(0), noise, x0, skipped)

    rule.note(past, seen(0.6, 0.8, False), state)
    expected = x0 + (0.6 / 0.8 - 0.8 / 0.6) * noise
    torch.testing.assert_close(rule.guess(past, seen(0.8, 0.6, True), state), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("begin", "end", "made"), [(0.15, 0.95, {0, 1, 5}), (0.5, 1.0, {0, 1, 2}), (0.0, 0.6, {0, 1, 3, 4, 5})]
)
def test_calls_are_left_out_within_the_window_alone(begin, end, made):
    """Timesteps 831, 665, 499, ...: a call within the window is made before the first is left out."""
    _, work = at_work(case_of("sd")[0], [LazyCache(ALWAYS, begin, end)])
    assert work.steps == made


def test_where_no_image_is_computed_nothing_is_called():
    case = build("controlnet", smallest=True)
    fast = accelerate(case.pipe, [LazyCache(ALWAYS)])
    case.call(fast)
    assert fast.counts["network calls"] == fast.counts["controlnet calls"] == 3


@dataclass
class GuidanceLater(Method):
    """The conditional branch alone, up to a step."""

    until: int = 4

    def step_start(self, state):
        state.only = "cond" if state.index < self.until else None


def test_where_guidance_comes_back_the_step_is_computed():
    _, work = at_work(case_of("sd")[0], [GuidanceLater(), LazyCache(ALWAYS)])
    assert work.steps == {0, 1, 4, 5}


@pytest.mark.parametrize("other", [EncoderPropagation(2), LazyCache(0.1)])
def test_refused_beside_others_that_take_rows_apart(other):
    with pytest.raises(UsageError, match=r"both act on '.+'; use one of them"):
        accelerate(case_of("sd")[0].pipe, [LazyCache(), other])


def test_stands_outside_of_caches_within_the_network():
    case = case_of("sd")[0]
    stacks = ([LazyCache(ALWAYS), DeepCache(2)], [DeepCache(2), LazyCache(ALWAYS)])
    one, other = (at_work(case, stack)[0] for stack in stacks)
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "LazyCache: threshold=-0.1 must be 0 or more"),
        ({"begin": 1.5}, "begin=1.5 must be a share of the training timesteps"),
        ({"begin": 0.5, "end": 0.4}, "end=0.4 must be from begin=0.5 to 1.0"),
        ({"stride": 0}, "stride=0 must be 1 or more"),
        ({"stride": 1.5}, "stride=1.5 must be int"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        LazyCache(**options)


def test_solvers_without_timesteps_of_training_are_refused():
    case = build("sd", smallest=True)
    case.pipe.scheduler = solver("EDMEulerScheduler")
    with pytest.raises(UsageError, match="EDMEulerScheduler counts in logarithms of noise levels"):
        case.call(accelerate(case.pipe, [LazyCache()]))


def test_work_is_not_counted_without_weights():
    with pytest.raises(UsageError, match="LazyCache decides by the features of each image"):
        real_size("sd15", solver("DDIMScheduler")).tally([LazyCache()], num_inference_steps=6)
