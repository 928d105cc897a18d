"""Scores of the clean estimate after every step."""

import pytest
import torch

from postdiff import accelerate
from postdiff.lab.config import experiment
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records.record import find
from postdiff.lab.step_scores import CleanEstimates
from postdiff.methods import MixedResolution


def test_the_estimates_have_the_size_of_their_step_and_end_in_the_image(tiny):
    plan = plan_rows(experiment.load("tiny", {"steps": 6}))[0]
    sampler = Pipelines().sampler(plan)
    estimates = CleanEstimates()
    driver = accelerate(sampler.pipe, [estimates, MixedResolution(beta=0.5, switch=2)])
    plain = accelerate(sampler.pipe, [MixedResolution(beta=0.5, switch=2)])
    watched, alone = (sampler.call(plan.samples[:2], each).images for each in (driver, plain))
    assert torch.equal(watched, alone), "watching changed the image"
    side = estimates.found[-1].shape[-1]
    assert [latents.shape[-1] for latents in estimates.found] == [side // 2] * 2 + [side] * 4
    last = sampler.pipe.vae.decode(estimates.found[-1] / sampler.pipe.vae.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(last.clamp(0, 1), watched, rtol=0, atol=1e-4)


def test_a_record_holds_one_curve_a_seed_and_the_table_its_quarters(tiny, outputs, command):
    code, out, _ = command("run", "tiny", "bench.repeats=0", "step_scores=true")
    assert code == 0 and "after 1" in out and "after 4" in out
    record = find("tiny", "plain")
    curves = record.curves["emoji_text_score"]
    assert set(curves) == {"0", "1"} and all(len(curve) == 4 for curve in curves.values())
    for seed, curve in curves.items():
        # The last estimate is the image itself but for rounding to whole pixel values.
        assert curve[-1] == pytest.approx(record.metrics["emoji_text_score"].per_seed[seed], abs=0.5)
    assert find("tiny", "cached").curves != record.curves


def test_a_model_without_a_text_score_is_refused(tiny, outputs, command):
    code, _, err = command("run", "tiny", "step_scores=true", "metrics=[paired_psnr]")
    assert code == 2 and "step_scores=true needs a text score" in err and len(err.splitlines()) == 1


def test_parts_of_a_run_leave_the_curves_to_the_last(tiny, outputs, command):
    command("run", "tiny", "step_scores=true", "--shard", "1/2", "--rows", "plain")
    assert find("tiny", "plain").curves == {}
    command("run", "tiny", "step_scores=true", "bench.repeats=0", "--rows", "plain")
    assert find("tiny", "plain").curves
