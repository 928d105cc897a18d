"""What must hold for every operating point in `configs/methods`, on every family: nothing to edit for a new method."""

import itertools
from dataclasses import fields

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from postdiff.presets import build_methods, preset
from tests.support.snapshot import scheduler_keys, snapshot
from tests.support.tiny import CASES, FAMILY_CASES

PRESETS = catalog.names("methods")
TRANSFORMERS = {"pixart_alpha", "pixart_alpha_sized", "pixart_sigma", "dit", "sd3", "sana", "hunyuan"}
NO_CROSS_ATTENTION = {"dit", "sd3", "deepfloyd_if", "if_stage_2"}
NO_ENCODER = {"sd3", "sana", "hunyuan"}
NO_FINE_SELF_ATTENTION = {"deepfloyd_if", "if_stage_2", "upscale_x4"}
REFUSED = {
    "mixed_resolution": set(),
    "deepcache": TRANSFORMERS,
    "cfg_cutoff": {"lcm"},
    "cross_attention_cache": NO_CROSS_ATTENTION,
    "postdiff": TRANSFORMERS | NO_CROSS_ATTENTION,
    "deepcache_nonuniform": TRANSFORMERS,
    "tgate": NO_CROSS_ATTENTION,
    "tgate_v1": NO_CROSS_ATTENTION,
    "tome": {"sd3", "sana", "hunyuan"} | NO_FINE_SELF_ATTENTION,
    "todo": TRANSFORMERS | NO_FINE_SELF_ATTENTION,
    "encoder_propagation": NO_ENCODER,
    "faster_diffusion": NO_ENCODER,
    "noise_injection": set(),
    "guided_channels": {"lcm", "deepfloyd_if", "if_stage_2"},
}
REASONS = (
    "needs a U-Net", "no separate cross-attention", "no guidance", "plain grid of image tokens",
    "no transformer block of", "guides no more", "needs an encoder and a decoder", "needs skip connections",
)  # fmt: skip


def accelerated(one, name, which="methods", family=None):
    """A driver under the preset; skips, with the reason, where the family is known to be refused, and only there."""
    try:
        driver = accelerate(one.pipe, build_methods(getattr(preset(name), which)))
        one.call(driver)
    except UsageError as reason:
        if family is not None and family not in REFUSED.get(name, {family}):
            raise
        pytest.skip(f"refused: {reason}")
    return driver


@pytest.mark.parametrize(("name", "family"), [(name, family) for name in REFUSED for family in sorted(REFUSED[name])])
def test_refused_where_it_cannot_work(case, baseline, name, family):
    one = case(family)
    baseline(family)  # a pipeline notes things about itself at its first call
    before = snapshot(one.pipe)
    with pytest.raises(UsageError, match="|".join(REASONS)):
        one.call(accelerate(one.pipe, build_methods([name])))
    assert snapshot(one.pipe) == before


# Every preset on every family; with the solvers, which are more, on every third one in turn.
SOLVERS = [name for name in CASES if name not in FAMILY_CASES]
ON_ONE = [(name, family) for name in PRESETS for family in FAMILY_CASES]
ON_ONE += [(name, case) for i, name in enumerate(PRESETS) for j, case in enumerate(SOLVERS) if (i + j) % 3 == 0]


@pytest.mark.parametrize(("name", "family"), ON_ONE)
def test_one_preset_on_one_pipeline(case, baseline, name, family):
    """Identity setting equals the baseline; the real one differs, repeats itself, is finite and leaves no trace."""
    expected, one = baseline(family), case(family)
    before = snapshot(one.pipe)
    driver = accelerated(one, name, family=family)
    first, second = one.call(driver), one.call(driver)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, expected), "the method did nothing"
    assert torch.equal(first, second), "the second call depends on the first"
    assert torch.equal(one.call(accelerated(one, name, "identity")), expected)
    assert snapshot(one.pipe) == before
    assert not scheduler_keys(one.pipe.scheduler)[1]
    assert torch.equal(one.call(one.pipe), expected), "the bare pipeline changed"


@pytest.mark.parametrize("family", ["sd", "controlnet", "sdxl", "pixart_alpha", "dit", "text_to_video"])
@pytest.mark.parametrize("name", PRESETS)
def test_macs_fall(case, name, family):
    one = case(family)
    driver = accelerated(one, name)
    full = count_macs(one.pipe, lambda: one.call(one.pipe))["denoiser"]
    less = count_macs(one.pipe, lambda: one.call(driver))["denoiser"]
    for convention in full:
        assert (less[convention] < full[convention]) == preset(name).saves


# Every pair on one pipeline, and every other pair on one of four more in turn.
PAIRS = list(itertools.combinations(PRESETS, 2))
OTHERS = ("controlnet", "sdxl", "pixart_alpha", "animatediff")
PAIRED = [(names, "sd_dpm++") for names in PAIRS] + [
    (names, OTHERS[i // 2 % 4]) for i, names in enumerate(PAIRS) if i % 2
]


@pytest.mark.parametrize(("names", "family"), PAIRED, ids=lambda part: part if type(part) is str else "+".join(part))
def test_pairs_compose_or_are_refused(case, baseline, names, family):
    expected, one = baseline(family), case(family)
    before = snapshot(one.pipe)
    try:
        driver = accelerate(one.pipe, build_methods(names))
        first = one.call(driver)
    except UsageError as reason:
        assert snapshot(one.pipe) == before
        pytest.skip(f"refused: {reason}")
    assert torch.isfinite(first).all()
    assert torch.equal(first, one.call(driver))
    assert torch.equal(one.call(accelerate(one.pipe, build_methods(names[::-1]))), first), "order matters for this pair"
    assert snapshot(one.pipe) == before
    assert torch.equal(one.call(one.pipe), expected)


# Every other preset on each family, in turn; the bare driver on all.
BATCHED = [(None, family) for family in FAMILY_CASES]
BATCHED += [(n, family) for i, n in enumerate(PRESETS) for j, family in enumerate(FAMILY_CASES) if (i + j) % 2 == 0]


@pytest.mark.parametrize(("name", "family"), BATCHED)
def test_an_image_does_not_depend_on_its_batch(case, name, family):
    one = case(family)
    driver = accelerated(one, name) if name else accelerate(one.pipe)
    together, alone = one.call(driver, [0, 1, 2, 3])[2:3], one.call(driver, [2])
    # DeepFloyd-IF thresholds by quantiles, which magnifies float error.
    tolerance = 1e-4 if family in ("deepfloyd_if", "if_stage_2") else 1e-5
    assert (together - alone).abs().max() <= tolerance * alone.abs().max()


@pytest.mark.parametrize("name", PRESETS)
def test_global_generator_is_left_alone(case, name):
    one = case("sd_euler_ancestral")
    driver = accelerated(one, name)
    before = torch.get_rng_state()
    one.call(driver)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_method_instance_serves_two_pipelines(case):
    stack = build_methods(["postdiff"])
    ddim, euler = case("sd_ddim"), case("sd_euler")
    first, second = accelerate(ddim.pipe, stack), accelerate(euler.pipe, stack)
    alone = ddim.call(first), euler.call(second)
    assert torch.equal(ddim.call(first), alone[0])
    assert torch.equal(euler.call(second), alone[1])
    assert all(set(vars(method)) == {option.name for option in fields(method)} for method in stack), (
        "a call left notes behind"
    )


@pytest.mark.parametrize(
    "names", [("deepcache", "deepcache"), ("postdiff", "mixed_resolution"), ("postdiff", "deepcache")]
)
def test_two_methods_on_the_same_modules_are_refused_before_anything_runs(case, names):
    with pytest.raises(UsageError, match=r"both act on '.+'; use one of them"):
        accelerate(case("sd").pipe, build_methods(names))
