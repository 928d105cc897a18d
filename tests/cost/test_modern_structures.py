"""Structures of the models of 2026: as many parameters and operations as published, also under methods."""

import pytest
import torch

from postdiff.cost import structure_file
from postdiff.cost.paper_values import one_branch
from postdiff.cost.structures import TextEncodersAndVAE, real_size
from postdiff.lab.config import schedulers
from postdiff.lab.config.schedulers import SchedulerConfig
from postdiff.methods import FORA, DeepCache, MixedResolution, StepMask

FLOWS = SchedulerConfig("flow_match_euler")
BILLION, TERA = 1e9, 1e12

# Parameters of the denoiser. Counted: what the repository's weight files hold, as the hub shows it or as others print
# who have loaded them. Named: what the authors say, in round numbers.
COUNTED = {
    "sdxl_inpaint": 2_567_478_084,
    "sdxl_refiner": 2_259_526_660,
    "z_image": 6_154_908_736,
    "flux1_dev": 11_901_408_320,
    "flux1_kontext": 11_901_408_320,
    "flux2_klein": 3_875_544_576,
    "flux2_dev": 32_223_281_152,
    "qwen_image": 20_430_401_088,
    "qwen_image_edit_2509": 20_430_401_088,
    "wan21_t2v_1_3b": 1_418_996_800,
    "wan22_t2v_a14b": 14_288_491_584,
    "ltx_video": 1_923_385_472,
}
NAMED = {
    "flux1_schnell": 11.9,  # "12 B"; without the guidance embedding of dev
    "sd35_medium": 2.24,  # "2.5 B" with 0.23 B of fixed position tables
    "sd35_large": 8.06,  # "8.1 B"
    "sana_1600m": 1.6,
    "hunyuan_video": 12.8,  # "13 B"
}
ENCODERS = {  # text encoders in billions, in the order of the file
    "flux1_dev": [0.123, 4.76],  # CLIP ViT-L/14 and T5 v1.1 XXL
    "qwen_image": [7.62],  # Qwen2.5 7B
    "z_image": [4.02],  # Qwen3 4B
    "flux2_dev": [23.57],  # Mistral Small 3.2 24B
    "sana_1600m": [2.61],  # Gemma 2 2B
    "wan21_t2v_1_3b": [5.68],  # UMT5 XXL
    "hunyuan_video": [7.5, 0.123],  # Llama 3 8B without its head
}


def parameters(module):
    return sum(each.numel() for each in module.parameters())


def twin(name, solver=FLOWS):
    return real_size(name, schedulers.layered(schedulers.stand_in(solver), solver))


def denoiser(of, methods=(), **call):
    """MACs of each step, in 10^12."""
    found, _ = of.tally(methods, **call)
    return [found.macs("denoiser", step)["all"] / TERA for step in range(found.steps)]


@pytest.mark.parametrize("name", [*COUNTED, *NAMED])
def test_networks_have_as_many_parameters_as_published(name):
    with torch.device("meta"):
        networks = structure_file.read(name).networks()
    for network in networks.values():
        if name in COUNTED:
            assert parameters(network) == COUNTED[name]
        else:
            assert parameters(network) / BILLION == pytest.approx(NAMED[name], rel=0.02)
    assert len(networks) == (2 if name == "wan22_t2v_a14b" else 1)


@pytest.mark.parametrize("name", ENCODERS)
def test_text_encoders_have_as_many_parameters_as_published(name):
    content = structure_file.read(name).content
    made = TextEncodersAndVAE(content["text_encoders"], None)._modules
    assert [parameters(module) / BILLION for module in made.values()] == pytest.approx(ENCODERS[name], rel=0.02)


# HyCa (arXiv 2510.04188, Tables 1, 2, 3 and 5), as others of its authors' papers, prints "FLOPs (T)" of whole runs; two
# a multiply-accumulate, both products of attention in them. HunyuanVideo is run at 640 x 480 px with 65 frames there.
# Qwen-Image's depend on the length of the prompts, which is not told. Schnell is given text of 512 tokens.
SQUARE = {"height": 1024, "width": 1024}
PUBLISHED = {
    "flux1_dev": (50, 3719.50, 1e-3, SQUARE | {"guidance_scale": 3.5}),
    "flux1_schnell": (4, 297.60, 1e-3, SQUARE | {"prompt_embeds": torch.zeros(1, 512, 4096)}),
    "qwen_image": (50, 12917.56, 0.025, {"height": 1328, "width": 1328, "true_cfg_scale": 4.0}),
    "hunyuan_video": (50, 29773.0, 1e-3, {"height": 480, "width": 640, "num_frames": 65}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_are_those_that_papers_print(name):
    steps, flops, within, call = PUBLISHED[name]
    one = denoiser(twin(name), num_inference_steps=1, **call)
    assert 2 * steps * sum(one) == pytest.approx(flops, rel=within)


def test_branches_that_come_one_by_one_are_counted_as_two():
    call = {"num_inference_steps": 2, "height": 256, "width": 256}
    of = twin("qwen_image")
    both, seen = of.tally(true_cfg_scale=4.0, **call)
    alone, unguided = of.tally(true_cfg_scale=1.0, **call)
    assert seen.branches == {0: 2, 1: 2} and unguided.branches == {0: 1, 1: 1}
    assert one_branch(both, seen).macs("denoiser") == alone.macs("denoiser")


# Every structure at a size whose half it can have too, and the methods that leave out work there.
CALLS = {
    "z_image": SQUARE | {"guidance_scale": 0.0},
    "flux2_klein": SQUARE | {"guidance_scale": 1.0},
    "qwen_image_edit_2509": SQUARE | {"true_cfg_scale": 4.0},
    "wan22_t2v_a14b": {"height": 704, "width": 1280, "num_frames": 17, "guidance_scale": 4.0},
    "sdxl_inpaint": SQUARE | {"guidance_scale": 8.0, "strength": 1.0},
}
VIDEO = SchedulerConfig("unipc", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 12.0})
SOLVERS = {"wan22_t2v_a14b": VIDEO, "sdxl_inpaint": SchedulerConfig()}


@pytest.fixture(scope="module")
def counted():
    """`counted(name, methods, **call)`: MACs of each of four steps; a structure is built once."""
    made = {}

    def count(name, methods=(), **call):
        if name not in made:
            made[name] = twin(name, SOLVERS.get(name, FLOWS))
        return denoiser(made[name], methods, **{"num_inference_steps": 4, **CALLS[name], **call})

    return count


@pytest.mark.parametrize("name", CALLS)
def test_mixed_resolution_costs_what_runs_of_both_sizes_do(counted, name):
    call = CALLS[name]
    plain = counted(name)
    small = counted(name, height=call["height"] // 2, width=call["width"] // 2)
    mixed = counted(name, [MixedResolution(beta=0.5, switch=2)])
    assert mixed == pytest.approx(small[:2] + plain[2:])
    # A quarter of the tokens, but for text, and for the given image, which stays as large as it is.
    least, most = {"qwen_image_edit_2509": (0.5, 0.6)}.get(name, (0.15, 0.32))
    assert least < small[0] / plain[0] < most


@pytest.mark.parametrize("name", ["flux2_klein", "qwen_image_edit_2509", "sdxl_inpaint"])
def test_a_cache_of_modules_costs_full_steps_and_cheap_ones_in_turns(counted, name):
    plain, cached = counted(name), counted(name, [FORA(interval=2)])
    assert cached[::2] == plain[::2] and cached[1] == cached[3] < plain[1]


def test_a_cache_starts_anew_where_the_second_network_takes_over(counted):
    """By noise levels shifted by 12 the first one has six of eight steps."""
    plain = counted("wan22_t2v_a14b", num_inference_steps=8)
    cached = counted("wan22_t2v_a14b", [FORA(interval=4)], num_inference_steps=8)
    full = [step for step in range(8) if cached[step] == plain[step]]
    assert full == [0, 4, 6] and max(cached[1:4]) < 1e-3 * plain[0]


def test_deepcache_on_inpainting_keeps_the_first_layers(counted):
    plain, cached = counted("sdxl_inpaint"), counted("sdxl_inpaint", [DeepCache(interval=2)])
    assert cached[::2] == plain[::2] and cached[1] < 0.05 * plain[1]


def test_steps_left_out_cost_nothing(counted):
    plain, masked = counted("z_image"), counted("z_image", [StepMask(computed=[0, 2])])
    assert masked == [plain[0], 0, plain[2], 0]
