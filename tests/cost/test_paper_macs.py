"""The papers' MAC columns from real-size network structures, without weights."""

import diffusers
import pytest

from postdiff.cost.macs import GROUPS
from postdiff.cost.paper_values import one_branch, paper_accounting
from postdiff.cost.structures import real_size
from postdiff.engine.errors import UsageError
from postdiff.methods import CrossAttentionCache, DeepCache, MixedResolution

pytestmark = pytest.mark.slow

PIXELS = {"sd15": 768, "sdxl": 1024, "pixart_alpha": 1024}
RESTART = DeepCache(interval=2, branch=1, restarts=[14, 15])


@pytest.fixture(scope="module")
def twin():
    """`twin(name)`: one twin a structure, shared."""
    made = {}

    def make(name):
        if name not in made:
            solver = diffusers.LCMScheduler if name.endswith("lcm") else diffusers.DPMSolverMultistepScheduler
            made[name] = real_size(name, solver(steps_offset=1))
        return made[name]

    return make


def counted(twin, methods, steps, pixels):
    return twin.tally(methods, height=pixels, width=pixels, num_inference_steps=steps, guidance_scale=5.0)


def tera(twin, methods, steps, pixels):
    call = {"height": pixels, "width": pixels, "num_inference_steps": steps, "guidance_scale": 5.0}
    macs = twin.tally(methods, **call)[0].macs("denoiser")
    return {convention: value / 1e12 for convention, value in macs.items()}


@pytest.mark.parametrize(
    ("name", "methods", "steps", "printed"),
    [
        ("sd15", [], 20, 30.420),
        ("sd15", [], 8, 12.168),
        ("sd15", [MixedResolution(beta=0.5, switch=10)], 20, 19.035),
        ("sd15", [DeepCache(interval=2, branch=1)], 20, 17.787),
        # The headline row, which its printed MACs fit without any cut of guidance.
        ("sd15", [MixedResolution(beta=0.5, switch=10), DeepCache(interval=2, branch=1)], 20, 11.129),
        ("sdxl", [], 20, 119.641),
        ("sdxl", [], 8, 47.856),
        ("sdxl", [MixedResolution(beta=0.75, switch=4), RESTART, CrossAttentionCache(gate=15)], 20, 52.682),
        ("pixart_alpha", [], 20, 85.640),
        ("pixart_alpha", [], 8, 34.256),
        ("pixart_alpha", [MixedResolution(beta=0.75, switch=10), CrossAttentionCache(gate=15)], 20, 54.718),
    ],
)
def test_postdiffs_main_rows(twin, name, methods, steps, printed):
    """Within 0.1 %: the paper also counts norm layers, which are 0.07 % of the U-Nets."""
    assert tera(twin(name), methods, steps, PIXELS[name])["dense"] == pytest.approx(printed, rel=0.001)


@pytest.mark.parametrize(("gate", "executed", "printed"), [(5, 11.78, 11.610), (15, 16.41, 16.360)])
def test_ablation_as_executed_and_as_the_paper_reckons(twin, gate, executed, printed):
    methods = [DeepCache(restarts=[gate - 1, gate]), CrossAttentionCache(gate=gate)]
    tally, seen = counted(twin("sd15"), methods, 20, 768)
    assert tally.macs("denoiser")["dense"] / 1e12 == pytest.approx(executed, rel=0.001)
    assert paper_accounting(tally, seen).dense / 1e12 == pytest.approx(printed, rel=0.001)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("sd15", [MixedResolution(beta=0.5, switch=10), DeepCache(interval=2, branch=1)]),
        # Its cheap steps hold no cross-attention at all.
        ("sdxl", [MixedResolution(beta=0.75, switch=4), RESTART, CrossAttentionCache(gate=15)]),
        ("pixart_alpha", [MixedResolution(beta=0.75, switch=10), CrossAttentionCache(gate=15)]),
    ],
)
def test_the_headline_rows_are_reckoned_as_they_run(twin, name, methods):
    tally, seen = counted(twin(name), methods, 20, PIXELS[name])
    assert paper_accounting(tally, seen) == tally.work("denoiser")


def test_groups_of_stable_diffusion(twin):
    """GMACs of one branch at 512 px: cross-attention 16.1 with its products, of which 1.5 are keys and values."""
    tally, _ = counted(twin("sd15"), [], 1, 512)
    found = {group: tally.macs("denoiser", group=group)["all"] / 2e9 for group in GROUPS}
    assert found["self-attention"] == pytest.approx(86.8, abs=0.1)
    assert found["cross-attention"] == pytest.approx(16.1, abs=0.1)
    assert found["feed-forward"] == pytest.approx(76.8, abs=0.1)
    assert sum(found.values()) == pytest.approx(401.64, abs=0.01)


@pytest.mark.parametrize(("name", "pixels", "branch"), [("sd15", 512, 338.61), ("sdxl", 1024, 2988.66)])
def test_one_branch_and_a_network_that_has_only_one(twin, name, pixels, branch):
    """An LCM adds a projection of the guidance scale, a millionth of a step."""
    guided = one_branch(*counted(twin(name), [], 1, pixels))
    distilled, seen = counted(twin(f"{name}_lcm"), [], 1, pixels)
    assert seen.branches == {0: 1}
    assert guided.macs("denoiser")["dense"] / 1e9 == pytest.approx(branch, abs=0.01)
    assert distilled.macs("denoiser")["dense"] / 1e9 == pytest.approx(branch, abs=0.01)
    assert distilled.macs("text_encoder") == guided.macs("text_encoder")


def test_three_conventions_of_one_call(twin):
    """GMACs of one branch at 512 px: 338.61 dense, 370.12 as fvcore sees it, 401.64 in all."""
    macs = tera(twin("sd15"), [], 1, 512)
    assert macs["dense"] * 500 == pytest.approx(338.61, abs=0.01)
    assert macs["fvcore"] * 500 == pytest.approx(370.12, abs=0.01)
    assert macs["all"] * 500 == pytest.approx(401.64, abs=0.01)


def test_unknown_structure():
    with pytest.raises(UsageError, match="unknown structure 'sd16'; did you mean 'sd15'"):
        real_size("sd16", None)
