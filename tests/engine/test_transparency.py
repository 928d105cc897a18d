"""With no method the driver is the pipeline, bit for bit, and leaves no trace, for every family and scheduler."""

import dataclasses

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.family import FAMILIES, Family
from postdiff.engine.unfit import UNFIT
from tests.support.snapshot import scheduler_keys, snapshot
from tests.support.tiny import CASES, FAMILY_CASES, VARIANTS


@pytest.mark.parametrize("name", [*CASES, *VARIANTS])
def test_empty_driver_is_the_pipeline(smallest, name):
    one, expected = smallest(name)
    before, scheduler = snapshot(one.pipe), one.pipe.scheduler
    driver = accelerate(one.pipe)
    keys = scheduler_keys(scheduler)
    assert torch.equal(one.call(driver), expected)
    assert snapshot(one.pipe) == before
    assert one.pipe.scheduler is scheduler
    assert scheduler_keys(scheduler) == keys
    assert not keys[1]


@pytest.mark.parametrize("name", [*CASES, *VARIANTS])
def test_restored_after_an_exception_in_the_network(smallest, name):
    one, expected = smallest(name)
    driver = accelerate(one.pipe)
    before = snapshot(one.pipe)
    calls = iter(range(100))

    def fail_at_third(module, *_):
        if next(calls) == 2:
            raise RuntimeError("boom")

    handle = driver.network.register_forward_hook(fail_at_third)
    try:
        with pytest.raises(RuntimeError, match="boom"):
            one.call(driver)
    finally:
        handle.remove()
    assert snapshot(one.pipe) == before
    assert not scheduler_keys(one.pipe.scheduler)[1]
    assert torch.equal(one.call(driver), expected)


@pytest.mark.parametrize("name", [*FAMILY_CASES, *VARIANTS])
def test_result_type_is_the_pipelines_own(smallest, name):
    one, _ = smallest(name)
    ours, theirs = (run(**one.arguments([0]) | {"num_inference_steps": 3}) for run in (accelerate(one.pipe), one.pipe))
    assert type(ours) is type(theirs)


def test_positional_arguments_reach_the_pipeline(case):
    one = case("dit")
    driver = accelerate(one.pipe)
    first = driver([3], 4.0, torch.Generator().manual_seed(1), 2).images[0]
    second = one.pipe([3], 4.0, torch.Generator().manual_seed(1), 2).images[0]
    assert first == second


def test_two_drivers_used_in_turn_do_not_mix(case, baseline):
    ddim, euler = case("sd_ddim"), case("sd_euler")
    first, second = accelerate(ddim.pipe), accelerate(euler.pipe)
    for _ in range(2):
        assert torch.equal(ddim.call(first), baseline("sd_ddim"))
        assert torch.equal(euler.call(second), baseline("sd_euler"))


def test_counts_report_what_ran(case):
    driver = accelerate(case("sd_heun").pipe)
    case("sd_heun").call(driver)
    assert driver.counts == {"network calls": 15, "network rows": 60}


def test_subclass_takes_its_parents_row(case):
    pipe = case("sd").pipe
    child = type("MyPipeline", (type(pipe),), {})(**pipe.components, requires_safety_checker=False)
    assert accelerate(child).family == FAMILIES["StableDiffusionPipeline"]


def test_a_subclass_with_a_call_of_its_own_is_named_and_told_how_to_give_a_row(case, baseline):
    """A community pipeline is a subclass whose loop may be another."""
    one = case("sd")

    class Community(type(one.pipe)):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    child = Community(**one.pipe.components, requires_safety_checker=False)
    child.set_progress_bar_config(disable=True)
    line = r"Community has a __call__ of its own and no row; .* family=Family.like\('StableDiffusionPipeline'\)"
    with pytest.raises(UsageError, match=line):
        accelerate(child)
    fast = accelerate(child, family=Family.like("StableDiffusionPipeline"))
    assert torch.equal(one.call(fast), baseline("sd"))


def test_a_row_like_another_in_one_line():
    assert Family.like("FluxPipeline") == FAMILIES["FluxPipeline"]
    changed = Family.like("FluxPipeline", scale="guidance_scale")
    assert changed == dataclasses.replace(FAMILIES["FluxPipeline"], scale="guidance_scale")
    with pytest.raises(UsageError, match="unknown pipeline class 'FluxPipelin'; did you mean 'FluxPipeline'"):
        Family.like("FluxPipelin")
    with pytest.raises(UsageError, match="unknown attribute of Family 'scal'; did you mean 'scale'"):
        Family.like("FluxPipeline", scal="guidance_scale")


def test_a_row_stays_small():
    assert len(dataclasses.fields(Family)) <= 16


def test_unknown_pipeline_is_refused_with_the_known_ones():
    class Other:
        pass

    with pytest.raises(UsageError, match="Other is not a pipeline this driver knows.*StableDiffusionPipeline"):
        accelerate(Other())


@pytest.mark.parametrize("name", UNFIT)
def test_a_pipeline_out_of_reach_is_refused_with_the_reason(name):
    import diffusers

    pipeline = getattr(diffusers, name)
    for cls in (pipeline, type("MyPipeline", (pipeline,), {})):
        with pytest.raises(UsageError, match=f"{cls.__name__} cannot be accelerated: {UNFIT[name]}"):
            accelerate(cls.__new__(cls))


def test_family_can_be_given_for_an_unknown_pipeline(case):
    pipe = case("sd").pipe
    driver = accelerate(pipe, family=Family(network="unet"))
    assert driver.network is pipe.unet


def test_something_that_is_not_a_method_is_refused(case):
    from postdiff.methods import DeepCache

    for wrong in ("deepcache", DeepCache, object()):
        with pytest.raises(UsageError, match="is not a method"):
            accelerate(case("sd").pipe, [wrong])
