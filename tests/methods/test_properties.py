"""What must hold for every operating point in `configs/methods`, on every family: nothing to edit for a new method."""

import functools
import itertools
import zlib
from dataclasses import fields

import pytest
import torch

from postdiff import accelerate, catalog
from postdiff.cost.macs import count_macs
from postdiff.engine.errors import UsageError
from tests.support.snapshot import scheduler_keys, snapshot
from tests.support.tiny import CASES, FAMILY_CASES
from tests.support.tiny_presets import build_methods, preset

PRESETS = catalog.names("methods")


def share(names, parts):
    """Which of so many parts a case belongs to: by its own names, so that no other case has a say in it."""
    return zlib.crc32("+".join(names).encode()) % parts


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


TWO_CALLS = {"flux_cfg", "qwen_image", "cogview4", "wan"}
MODERN = {"flux"} | TWO_CALLS
TRANSFORMERS = {"pixart_alpha", "pixart_alpha_sized", "pixart_sigma", "dit", "sd3", "sana", "hunyuan"} | MODERN
UNETS = set(FAMILY_CASES) - TRANSFORMERS
PIXELS = {"deepfloyd_if", "if_stage_2"}
NO_CROSS_ATTENTION = {"dit", "sd3"} | PIXELS | MODERN - {"wan"}
NO_GUIDANCE = {"lcm", "flux"}
NO_ENCODER = {"sd3", "sana", "hunyuan"} | MODERN
NO_FINE_SELF_ATTENTION = {"upscale_x4"} | PIXELS
REFUSED = {
    "mixed_resolution": set(),
    "mixed_resolution_three": set(),
    "mixed_resolution_pixels": PIXELS | MODERN,
    "mixed_resolution_cosine": set(),
    "deepcache": TRANSFORMERS,
    "cfg_cutoff": NO_GUIDANCE,
    "cross_attention_cache": NO_CROSS_ATTENTION,
    "postdiff": TRANSFORMERS | NO_CROSS_ATTENTION,
    "deepcache_nonuniform": TRANSFORMERS,
    "tgate": NO_CROSS_ATTENTION | TWO_CALLS,
    "tgate_v1": NO_CROSS_ATTENTION | TWO_CALLS,
    "tome": NO_ENCODER | NO_FINE_SELF_ATTENTION,
    "todo": TRANSFORMERS | NO_FINE_SELF_ATTENTION,
    "encoder_propagation": NO_ENCODER,
    "faster_diffusion": NO_ENCODER,
    "noise_injection": set(),
    "guided_channels": NO_GUIDANCE | PIXELS | TWO_CALLS,
    "guidance_interval": NO_GUIDANCE,
    "fora": PIXELS,
    "pyramid_attention_broadcast": PIXELS,
    "taylor_seer": PIXELS,
    "block_cache": TRANSFORMERS | PIXELS,
    "dbcache": UNETS,
    "first_block_cache": UNETS,
    "sea_cache": UNETS,
    "sea_cache_network": set(),
    "tea_cache": UNETS,
    "mag_cache": UNETS,
    "lazy_cache": set(),
    "sada": set(),
    "step_mask": set(),
    "easy_cache": set(),
    "spectrum": set(),
    "adaptive_diffusion": set(),
}
TOO_SHORT = {("sada", "img2img")}  # four steps, of which the first two and the last are made whatever happens
REASONS = (
    "needs a U-Net", "no separate cross-attention", "no guidance", "plain grid of image tokens", "one by one",
    "no transformer block of", "guides no more", "needs an encoder and a decoder", "needs skip connections",
    "needs transformer blocks", "needs a transformer with a chain of blocks", "needs a VAE",
)  # fmt: skip


def attempt(one, name, family=None, which="methods", run=None):
    """(driver under the preset, its first image, of `run` in place of a plain call if given).

    Skips, with the reason, where the family is known to be refused, and only there.
    """
    try:
        driver = accelerate(one.pipe, build_methods(getattr(preset(name), which)))
        return driver, (run or one.call)(driver)
    except UsageError as reason:
        kind = "sd" if family in SOLVERS else family
        if family is not None and kind not in REFUSED.get(name, {kind}):
            raise
        pytest.skip(f"refused: {reason}")


def assert_alike(family, together, alone):
    # DeepFloyd-IF thresholds by quantiles, which magnifies float error.
    tolerance = 1e-4 if family in ("deepfloyd_if", "if_stage_2") else 1e-5
    assert (together - alone).abs().max() <= tolerance * alone.abs().max()


@pytest.mark.parametrize(("name", "family"), [(name, family) for name in REFUSED for family in sorted(REFUSED[name])])
def test_refused_where_it_cannot_work(smallest, name, family):
    one, _ = smallest(family)  # drawn once already: a pipeline notes things about itself at its first call
    before = snapshot(one.pipe)
    with pytest.raises(UsageError, match="|".join(REASONS)):
        one.call(accelerate(one.pipe, build_methods([name])))
    assert snapshot(one.pipe) == before


# Every preset on every family; with the solvers, which are more, on about every third one.
SOLVERS = [name for name in CASES if name not in FAMILY_CASES]
ON_ONE = [(name, family) for name in PRESETS for family in FAMILY_CASES]
ON_ONE += [slow(*case) for case in itertools.product(PRESETS, SOLVERS) if share(case, 3) == 0]


@pytest.mark.parametrize(("name", "family"), ON_ONE)
def test_one_preset_on_one_pipeline(smallest, name, family):
    """The real setting differs, is finite and repeats itself; then the identity setting still equals the baseline."""
    one, expected = smallest(family)
    before, random = snapshot(one.pipe), torch.get_rng_state()
    driver, first = attempt(one, name, family)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, expected) or (name, family) in TOO_SHORT, "the method did nothing"
    # The second call is the same again, bit for bit, or that of a sample by itself.
    if share((name, family), 2):
        assert torch.equal(one.call(driver), first), "the second call depends on the first"
    else:
        assert_alike(family, first[1:], one.call(driver, [1]))
    # After the real calls, so that it would show what they had left behind.
    assert torch.equal(attempt(one, name, which="identity")[1], expected)
    assert snapshot(one.pipe) == before
    assert not scheduler_keys(one.pipe.scheduler)[1]
    assert torch.equal(torch.get_rng_state(), random), "the global generator was used"


@pytest.mark.parametrize("family", FAMILY_CASES)
def test_an_image_does_not_depend_on_its_batch(smallest, family):
    one, _ = smallest(family)
    driver = accelerate(one.pipe)
    assert_alike(family, one.call(driver, [0, 1, 2, 3])[2:3], one.call(driver, [2]))


@pytest.fixture(scope="module")
def macs(smallest):
    """`macs(family, run)`: MACs of the denoiser for one sample; those of the bare pipeline are counted once."""

    def count(family, run):
        one, _ = smallest(family)
        return count_macs(one.pipe, lambda: one.call(run, [0]))["denoiser"]

    bare = functools.cache(lambda family: count(family, smallest(family)[0].pipe))
    return lambda family, run=None: bare(family) if run is None else count(family, run)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "controlnet", "sdxl", "pixart_alpha", "dit", "text_to_video"])
@pytest.mark.parametrize("name", PRESETS)
def test_macs_fall(smallest, macs, name, family):
    one, _ = smallest(family)
    _, less = attempt(one, name, run=lambda driver: macs(family, driver))
    for convention, full in macs(family).items():
        assert (less[convention] < full) == preset(name).saves


# Every pair on one pipeline, about every fourth on a transformer, every eighth on one of three more.
PAIRS = list(itertools.combinations(PRESETS, 2))
OTHERS = ("controlnet", "sdxl", "animatediff")
PAIRED = [slow(names, "sd_dpm++") for names in PAIRS]
PAIRED += [slow(names, "pixart_alpha") for names in PAIRS if share(names, 4) == 0]
PAIRED += [slow(names, family) for names in PAIRS for family in OTHERS if share((*names, family), 24) == 0]


@pytest.mark.parametrize(("names", "family"), PAIRED, ids=lambda part: part if type(part) is str else "+".join(part))
def test_pairs_compose_or_are_refused(smallest, names, family):
    one, _ = smallest(family)
    before = snapshot(one.pipe)
    try:
        first = one.call(accelerate(one.pipe, build_methods(names)))
    except UsageError as reason:
        assert snapshot(one.pipe) == before
        pytest.skip(f"refused: {reason}")
    assert torch.isfinite(first).all()
    other = one.call(accelerate(one.pipe, build_methods(names[::-1])))
    if {"NoiseInjection", "MixedResolution"} <= {type(method).__name__ for method in build_methods(names)}:
        # What is injected at the last small step reaches x0 from outside alone: a share of the noise, no more.
        assert (other - first).abs().max() <= 0.01 * first.abs().max()
    else:
        assert torch.equal(other, first), "order matters for this pair"
    assert snapshot(one.pipe) == before


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
