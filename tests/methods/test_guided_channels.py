"""Guidance on some channels, against the formula of DiT's original code."""

import copy

import pytest
import torch

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.methods import CFGCutoff, EncoderPropagation, GuidedChannels
from tests.support.cases import generators
from tests.support.recorder import Recorder
from tests.support.tiny import STEPS


@torch.no_grad()
def original_dit(one, scale, channels):
    """Sampling as DiT's code does it: both halves hold the same latents, and only eps[:, :channels] is guided."""
    net, scheduler = one.pipe.transformer, copy.deepcopy(one.pipe.scheduler)
    scheduler.set_timesteps(STEPS)
    z = torch.cat([torch.randn(1, 4, 16, 16, generator=generator) for generator in generators([0, 1])])
    x, labels = torch.cat([z, z]), torch.tensor([3, 4, 1000, 1000])
    for t in scheduler.timesteps:
        half = x[: len(x) // 2]
        out = net(torch.cat([half, half]), timestep=t.expand(4), class_labels=labels).sample
        eps, rest = out[:, :channels], out[:, channels:]
        cond_eps, uncond_eps = eps.chunk(2)
        guided = uncond_eps + scale * (cond_eps - uncond_eps)
        out = torch.cat([torch.cat([guided, guided]), rest], dim=1)
        x = scheduler.step(out[:, :4], t, x).prev_sample
    return x[: len(x) // 2]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_equals_dits_own_code(case, channels):
    one, seen = case("dit"), Recorder()
    one.call(accelerate(one.pipe, [seen, GuidedChannels(channels)]))
    torch.testing.assert_close(seen.latents[-1][:2], original_dit(one, 5.0, channels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dit", "sd", "sdxl", "pixart_alpha"])
def test_nothing_asked_is_the_baseline_and_what_would_do_nothing_is_refused(case, baseline, name):
    one = case(name)
    assert torch.equal(one.call(accelerate(one.pipe, [GuidedChannels(0)])), baseline(name))
    with pytest.raises(UsageError, match="channels=4, but a model of 4 channels guides no more than these"):
        one.call(accelerate(one.pipe, [GuidedChannels(4)]))
    assert not torch.equal(one.call(accelerate(one.pipe, [GuidedChannels(3)])), baseline(name))


def test_order_does_not_matter_beside_propagation_and_a_cut(case):
    one = case("dit")

    def stack(decoding):
        return [GuidedChannels(3), CFGCutoff(gate=6), EncoderPropagation(4, decoding)]

    sequential, parallel = (one.call(accelerate(one.pipe, stack(kind))) for kind in ("sequential", "parallel"))
    assert (sequential - parallel).abs().max() <= 1e-5 * parallel.abs().max()
    assert torch.equal(one.call(accelerate(one.pipe, stack("parallel")[::-1])), parallel)


@pytest.mark.parametrize(("name", "changes"), [("lcm", {}), ("sd", {"guidance_scale": 1.0})])
def test_refused_without_guidance(case, name, changes):
    one = case(name)
    with pytest.raises(UsageError, match="GuidedChannels: this run has no guidance"):
        one.call(accelerate(one.pipe, [GuidedChannels()]), **changes)


def test_bad_options():
    with pytest.raises(UsageError, match="channels=-1 must be 0 or more"):
        GuidedChannels(-1)
