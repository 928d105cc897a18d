"""The counter against pencil and paper, and its attribution to parts."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from postdiff import accelerate, catalog
from postdiff.cost.macs import count_macs
from postdiff.cost.structures import real_size
from postdiff.engine.errors import UsageError
from postdiff.methods import CFGCutoff, DeepCache, EasyCache
from postdiff.presets import build_methods
from tests.support.tiny import STEPS, build


class Attention(nn.Module):
    def forward(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Bag:
    """A pipeline reduced to its components."""

    def __init__(self, **components):
        self.components = components


def test_linear_and_convolution():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 5))
    counts = count_macs(Bag(unet=net), lambda: net(torch.zeros(2, 3, 4, 4)))
    by_hand = 2 * (16 * 8 * 3 * 9 + 8 * 16 * 5)
    assert counts["denoiser"] == {"dense": by_hand, "fvcore": by_hand, "all": by_hand}
    assert counts["total"] == counts["denoiser"]
    assert counts["vae"]["all"] == 0


def test_attention_products_by_convention():
    net = Attention()
    q, k = torch.zeros(2, 4, 10, 8), torch.zeros(2, 4, 6, 8)
    product = 2 * 4 * 10 * 6 * 8
    assert count_macs(Bag(transformer=net), lambda: net(q, k, k))["denoiser"] == {
        "dense": 0,
        "fvcore": product,
        "all": 2 * product,
    }


def test_an_operation_in_no_convention_is_not_dropped_silently():
    net = nn.Sequential()
    with pytest.raises(UsageError, match="is in no MAC convention"):
        count_macs(Bag(unet=net), lambda: torch.ops.aten.convolution_backward(
            torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 1, 1), None,
            [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False],
        ))  # fmt: skip


def test_parts_of_a_pipeline_call(case):
    one = case("sd")
    latents = count_macs(one.pipe, lambda: one.call(one.pipe))
    images = count_macs(one.pipe, lambda: one.call(one.pipe, output_type="pt"))
    assert latents["vae"]["all"] == 0
    assert images["vae"]["all"] > 0
    assert images["total"]["all"] == images["denoiser"]["all"] + images["vae"]["all"]


def test_controlnet_counts_as_denoiser(case):
    with_control, without = case("controlnet"), case("sd")
    more = count_macs(with_control.pipe, lambda: with_control.call(with_control.pipe))["denoiser"]["dense"]
    assert more > count_macs(without.pipe, lambda: without.call(without.pipe))["denoiser"]["dense"]


def test_cut_guidance_costs_exactly_half_a_step(case):
    one = case("sd")
    full = count_macs(one.pipe, lambda: one.call(one.pipe))["denoiser"]["all"]
    cut = count_macs(one.pipe, lambda: one.call(accelerate(one.pipe, [CFGCutoff(gate=6)])))["denoiser"]["all"]
    assert cut == full * (STEPS - 1) // STEPS


def test_cheap_steps_are_linear_in_their_number(case):
    one = case("sd")

    def macs(interval):
        driver = accelerate(one.pipe, [DeepCache(interval=interval)])
        return count_macs(one.pipe, lambda: one.call(driver))["denoiser"]["dense"]

    # Full steps of 8: 8, 4, 2, 1.
    assert macs(1) - macs(2) == 2 * (macs(2) - macs(4)) == 4 * (macs(4) - macs(8))


ADAPTIVE = [name for name in catalog.names("methods") if any(each.adaptive for each in build_methods([name]))]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_methods_that_look_at_features_are_not_counted_without_weights(name):
    methods = build_methods([name])
    with pytest.raises(UsageError, match=f"{type(methods[0]).__name__} decides by the features of each image"):
        real_size("sd15", DDIMScheduler()).tally(methods, num_inference_steps=6)


def test_such_methods_are_counted_with_weights():
    case = build("sd", smallest=True)
    plain, skipping = (
        count_macs(case.pipe, lambda stack=stack: case.call(accelerate(case.pipe, stack), [0]))["denoiser"]["all"]
        for stack in ([], [EasyCache(threshold=2.0, warmup=2)])
    )
    assert 0 < skipping < plain
