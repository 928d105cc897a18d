"""Faster Diffusion's MAC columns from real-size network structures, in the convention of its counter (fvcore).

The paper prints "GFLOPs" that are multiply-accumulates of both guidance branches, with one of the two attention
products. It also counts norm layers and upsampling, 0.1 % of Stable Diffusion; they are left out here.
"""

import diffusers
import pytest

from postdiff.cost.structures import real_size
from postdiff.methods import EncoderPropagation, ToMe
from postdiff.methods.encoder_propagation.key_steps import KEY_SETS

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SOLVERS = {
    "ddim": lambda: diffusers.DDIMScheduler(**BETAS, clip_sample=False),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS),
    "ddpm": lambda: diffusers.DDPMScheduler(variance_type="learned_range"),
}
SD = {"height": 512, "width": 512, "guidance_scale": 7.5}


@pytest.fixture(scope="module")
def twin():
    """`twin(name, solver)`: one twin a structure, shared."""
    made = {}

    def make(name, solver="ddim"):
        if name not in made:
            made[name] = real_size(name, None)
        made[name].pipe.scheduler = SOLVERS[solver]()
        return made[name]

    return make


def giga(twin, methods=(), **call):
    return twin.tally(methods, **call)[0].macs("denoiser")["fvcore"] / 1e9


def costs(twin, **call):
    """(a full step, a step between keys), both in 10^9."""
    full = giga(twin, [EncoderPropagation([0], "sequential")], num_inference_steps=1, **call)
    return full, giga(twin, [EncoderPropagation([0], "sequential")], num_inference_steps=2, **call) - full


def run_of(full, between, keys, steps):
    return keys * full + (steps - keys) * between


@pytest.mark.parametrize("decoding", ["sequential", "parallel"])
@pytest.mark.parametrize(
    ("keys", "steps", "solver", "printed"),
    [
        (1, 50, "ddim", 37050),
        ("sd_50", 50, "ddim", 27350),
        (1, 20, "dpm++", 14821),
        ("sd_20", 20, "dpm++", 11743),
    ],
)
def test_stable_diffusion(twin, keys, steps, solver, printed, decoding):
    """Table 1, every call of the network executed; parallel decoding saves calls, not work."""
    macs = giga(twin("sd15", solver), [EncoderPropagation(keys, decoding)], num_inference_steps=steps, **SD)
    assert macs == pytest.approx(printed, rel=0.0015)


def test_parallel_and_sequential_cost_the_same(twin):
    """All but the embedding of time: a linear map of a vector, once a call."""
    sequential, parallel = (
        twin("sd15").tally([EncoderPropagation([0, 3, 4], kind)], num_inference_steps=10, **SD)[0].macs("denoiser")
        for kind in ("sequential", "parallel")
    )
    for convention in ("dense", "fvcore", "all"):
        assert parallel[convention] == pytest.approx(sequential[convention], rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "printed"),
    [
        (2, 31011),
        (6, 27350),
        (12, 26370),
        ("nonuniform_1_50", 27350),
        ("nonuniform_2_50", 27350),
        ("nonuniform_3_50", 27350),
        ("sd_50", 27350),
    ],
)
def test_strategies(twin, keys, printed):
    """Table 5, by the price of a full step and of one between keys: the schedule decides how many there are of each."""
    count = len(range(0, 50, keys)) if isinstance(keys, int) else len(KEY_SETS[keys].steps)
    assert run_of(*costs(twin("sd15"), **SD), count, 50) == pytest.approx(printed, rel=0.005)


def test_prices_of_the_two_halves(twin):
    """Table 10 prints 224.2 for the encoder and 504.4 for the decoder; its 6.04 for the middle is one branch alone."""
    full, decoder = costs(twin("sd15"), **SD)
    assert decoder == pytest.approx(504.4, rel=0.002)
    assert full - decoder == pytest.approx(224.2 + 2 * 6.04, rel=0.002)


@pytest.mark.parametrize("name", ["dit_xl2_256", "dit_xl2_512"])
@pytest.mark.parametrize(("keys", "ratio"), [("dit_113_250", 0.648), ("dit_175_250", 0.807)])
def test_dit(twin, name, keys, ratio):
    """Ten of 28 blocks run between keys; the key sets of the authors' demonstration and of their evaluation."""
    full, between = costs(twin(name), guidance_scale=1.5)
    assert between / full == pytest.approx(10 / 28, rel=0.002)
    count = len(KEY_SETS[keys].steps)
    assert run_of(full, between, count, 250) / (250 * full) == pytest.approx(ratio, abs=0.0005)


def test_controlnet(twin):
    """Table 4, canny edges: 49500 printed, 0.8 % below. Its 31400 with propagation fits no reading of nine key steps:
    ControlNet and encoder at nine steps make 29651.
    """
    full, between = costs(twin("sd15_controlnet"), **SD)
    assert 50 * full == pytest.approx(49500, rel=0.01)
    assert run_of(full, between, 9, 50) == pytest.approx(29651, rel=0.001)
    # Nothing of the ControlNet is left between keys.
    assert between == pytest.approx(costs(twin("sd15"), **SD)[1], rel=1e-6)


def test_text_to_video(twin):
    """Table 4, VideoFusion: 224700 and 148680 printed, 33 % less; counted 7 and 12 % more, and 31 % less."""
    full, between = costs(twin("text_to_video_ms"), height=256, width=256, guidance_scale=9.0)
    assert 50 * full == pytest.approx(240762, rel=0.001)
    assert run_of(full, between, 9, 50) == pytest.approx(166029, rel=0.001)
    assert run_of(full, between, 9, 50) / (50 * full) == pytest.approx(148680 / 224700, abs=0.03)


def test_stages_of_deepfloyd_if(twin):
    """734825 are printed for 100, 50 and 75 steps; the three stages count for 776001, 5.6 % more.

    With the first and the third as counted, 2240 a step of the second would meet it. What propagation saves is counted
    as 136553; 734825 - 626523 = 108302 are printed.
    """
    first = costs(twin("deepfloyd_if_1_xl", "ddpm"), height=64, width=64, guidance_scale=7.0)
    second = giga(twin("deepfloyd_if_2_l", "ddpm"), num_inference_steps=1, guidance_scale=4.0)
    third = costs(twin("x4_upscaler"), guidance_scale=9.0)
    assert first == pytest.approx((2853.86, 2054.36), rel=1e-4)
    assert second == pytest.approx(3063.21, rel=1e-4)
    assert third == pytest.approx((4499.38, 3115.27), rel=1e-4)
    assert 100 * first[0] + 50 * second + 75 * third[0] == pytest.approx(776001, rel=1e-4)
    assert (734825 - 100 * first[0] - 75 * third[0]) / 50 == pytest.approx(2240, rel=0.001)
    keys = len(KEY_SETS["if_1_100"].steps), len(KEY_SETS["if_3_75"].steps)
    assert keys == (40, 11)
    saved = (100 - keys[0]) * (first[0] - first[1]) + (75 - keys[1]) * (third[0] - third[1])
    assert saved == pytest.approx(136553, rel=0.001)


@pytest.mark.parametrize(("name", "parameters"), [("deepfloyd_if_1_xl", 4.3e9), ("deepfloyd_if_2_l", 1.2e9)])
def test_deepfloyd_ifs_stages_have_their_published_number_of_parameters(twin, name, parameters):
    unet = twin(name, "ddpm").pipe.unet
    assert sum(parameter.numel() for parameter in unet.parameters()) == pytest.approx(parameters, rel=0.011)


def test_with_token_merging(twin):
    """Table 1's rows with ToMe: 35123 and 26053.

    ToMe's matching is a product of its own, of which the paper's counter sees all and this convention half. Five
    blocks match 3072 tokens against 1024, of 320 channels, in two branches; three of them are in the decoder.
    """
    half = 2 * 3072 * 1024 * 320 / 2 / 1e9
    full = giga(twin("sd15"), [ToMe(0.5)], num_inference_steps=1, **SD)
    both = giga(twin("sd15"), [ToMe(0.5), EncoderPropagation([0], "sequential")], num_inference_steps=2, **SD)
    full, between = full + 5 * half, both - full + 3 * half
    assert 50 * full == pytest.approx(35123, rel=0.0015)
    assert run_of(full, between, 9, 50) == pytest.approx(26053, rel=0.0015)
