"""On a GPU: the driver makes the CPU wait no more often than the pipeline does, methods only for what they must see.

Waiting at every step keeps the CPU from running ahead, which costs more the smaller the network is.
"""

import pytest
import torch

from postdiff import accelerate
from tests.gpu.placed import HALF
from tests.gpu.test_images import PRESETS
from tests.gpu.waits import waits
from tests.support.tiny import FAMILY_CASES, FEW_STEPS
from tests.support.tiny_presets import build_methods

pytestmark = pytest.mark.gpu

# What makes methods wait beyond the bare pipeline, and how often at most in a run; all others never do.
ONCE, A_STEP = 4, 3 * FEW_STEPS
MAY_WAIT = {
    "dbcache": (A_STEP, "its decision rests on features"),
    "first_block_cache": (A_STEP, "its decision rests on features"),
    "tea_cache": (A_STEP, "its decision rests on features"),
    "sea_cache": (2 * A_STEP, "its decision rests on latents, and noise levels of all steps, before the first"),
    "sea_cache_network": (2 * A_STEP, "the same"),
    "easy_cache": (A_STEP, "its decision rests on features"),
    "adaptive_diffusion": (A_STEP, "its decision rests on latents"),
    "guidance_interval": (A_STEP, "noise levels of all steps, before the first"),
    "noise_injection": (A_STEP, "the noise level at late steps, as scheduler and timestep tell it"),
    "faster_diffusion": (A_STEP, "noise injection is a part of it"),
    "mixed_resolution": (3 * ONCE, "noise levels, history and fresh noise at the switch"),
    "mixed_resolution_pixels": (3 * ONCE, "the same"),
    "mixed_resolution_cosine": (3 * ONCE + A_STEP, "the same, and noise levels of all steps before the first"),
    "mixed_resolution_three": (6 * ONCE, "the same at two switches"),
    "postdiff": (3 * ONCE, "mixed resolution is a part of it"),
    "pyramid_attention_broadcast": (1, "the timesteps, before the first step"),
}


def beyond(one, driver):
    """What a call of the driver waits for beyond the bare pipeline's call."""
    own, bare = (waits(lambda run=run: one.call(run)) for run in (driver, one.pipe))
    return own - bare


def test_waiting_is_seen(device, shown_on_cuda):
    shown_on_cuda("waits for a GPU")
    number = torch.zeros(1, device=device)
    assert sum(waits(lambda: [number.item() for _ in range(3)]).values()) == 3
    assert not waits(lambda: number + 1)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_the_driver_adds_none(on, shown_on_cuda, name):
    one, _ = on(name, torch.float32)
    driver = accelerate(one.pipe)
    one.call(driver)
    shown_on_cuda("waits for a GPU")
    assert not beyond(one, driver)


@pytest.mark.parametrize(("name", "family"), PRESETS)
def test_methods_add_what_they_need(on, shown_on_cuda, name, family):
    one, _ = on(family, HALF)
    driver = accelerate(one.pipe, build_methods([name]))
    one.call(driver)
    shown_on_cuda("waits for a GPU")
    most, reason = MAY_WAIT.get(name, (0, "nothing"))
    added = beyond(one, driver)
    assert sum(added.values()) <= most, f"{name} may wait for {reason}, {most} times: {dict(added)}"
