"""SeaCache against the hook of diffusers, its filter against a matrix, whole calls against a loop."""

import math

import pytest
import torch
from diffusers.hooks import HookRegistry, SeaCacheConfig, apply_sea_cache
from diffusers.hooks.sea_cache import _apply_sea_filter
from diffusers.models.cache_utils import CacheMixin

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.methods import SeaCache
from postdiff.methods.sea_cache.sea_filter import sea_filter
from tests.support.tiny import STEPS, build


def transform(size):
    """The matrix of the discrete Fourier transform, and the frequency of each of its rows."""
    index = torch.arange(size, dtype=torch.float64)
    whole = torch.where(index < (size + 1) // 2, index, index - size)
    return torch.exp(-2j * math.pi * index[:, None] * index[None] / size), whole.abs() / size


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_the_filter_equals_a_matrix_and_that_of_diffusers(sigma, power):
    video = torch.randn(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    found = sea_filter(video, sigma / (1 - sigma), power)
    theirs = [_apply_sea_filter(row.movedim(0, -1), sigma, power).movedim(-1, 0) for row in video]
    torch.testing.assert_close(found, torch.stack(theirs), rtol=1e-5, atol=1e-5)
    matrices, gains = [], []
    for size in (4, 6, 5):
        matrix, frequency = transform(size)
        clean = 1 / (frequency**power + 1e-16)
        matrices.append(matrix)
        gains.append((1 - sigma) * clean / ((1 - sigma) ** 2 * clean + sigma**2))
    gain = torch.einsum("t,h,w->thw", *gains)
    forward = torch.einsum("at,bh,cw,nkthw->nkabc", *matrices, video.to(torch.complex128))
    back = [matrix.conj() / len(matrix) for matrix in matrices]
    expected = torch.einsum("at,bh,cw,nkthw->nkabc", *back, forward * gain / gain.mean()).real
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_filter_keeps_what_has_no_preference():
    """A sample whose frequencies are all alike keeps its energy on average; without a power it is left as it is."""
    image = torch.randn(1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sea_filter(image, 3.0, 0.0), image)
    for ratio in (0.0, math.inf):  # the levels at which flows end and begin
        assert torch.isfinite(sea_filter(image, ratio, 2.0)).all()
    point = torch.zeros(1, 1, 6, 5)
    point[..., 0, 0] = 1.0  # its transform is 1 everywhere, so that the filtered point is the mean gain
    torch.testing.assert_close(sea_filter(point, 3.0, 2.0)[..., 0, 0], torch.ones(1, 1))


def hooked(family, threshold, order, most):
    case = build(family)
    network, step = case.pipe.transformer, [-1]

    def around(forward, *args, **kwargs):
        step[0] += 1
        sigma = case.pipe.scheduler.sigmas[step[0]].item()
        with CacheMixin.cache_context(network, "one", step_index=step[0], sigma=sigma, num_inference_steps=STEPS):
            return forward(*args, **kwargs)

    config = dict(threshold=threshold, power_exp=3.0, residual_order=order, max_consecutive_cached=most)
    apply_sea_cache(network, SeaCacheConfig(**config))
    HookRegistry.check_if_exists_or_initialize(network)
    with intercept(network, "forward", around):
        return case.call(case.pipe, [0], guidance_scale=1.0)


@pytest.mark.parametrize(("order", "most"), [(1, 2), (0, 3)])
@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_equals_the_hook_of_diffusers(threshold, order, most):
    case = build("wan")
    fast = accelerate(case.pipe, [SeaCache(threshold=threshold, power=3.0, order=order, in_a_row=most)])
    found = case.call(fast, [0], guidance_scale=1.0)
    assert 0 < fast.counts["sea_cache rows replayed"] < STEPS
    torch.testing.assert_close(found, hooked("wan", threshold, order, most))


def loop(case, image, threshold, order, replay):
    """(sample, calls of the network) of DDIM written out; both predictions, or what is added, held or extrapolated."""
    scheduler, unet, arguments = case.pipe.scheduler, case.pipe.unet, case.arguments([image])
    scheduler.set_timesteps(STEPS)
    x, kept, total, before = torch.randn(1, 4, 16, 16, generator=arguments["generator"][0]), [], 0.0, None
    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            a = scheduler.alphas_cumprod[t]
            z = sea_filter(x, float(((1 - a) / a).sqrt()), 2.0)
            in_a_row = step - kept[-1][0] - 1 if kept else 0
            skip = 1 <= step < STEPS - 1 and in_a_row < 2
            if skip:
                total += float((z - before).abs().mean() / before.abs().mean())
                skip = total < threshold
            before, base = z, torch.cat([x, x]) * (replay == "residual")
            if skip:
                k, both = kept[-1]
                if order and len(kept) > 1:
                    both = both + (both - kept[-2][1]) * (step - k) / (k - kept[-2][0])
                both = base + both
            else:
                text = torch.cat([arguments["negative_prompt_embeds"], arguments["prompt_embeds"]])
                both = unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample
                kept, total = [*kept, (step, both - base)], 0.0
            u, c = both.chunk(2)
            x = scheduler.step(u + arguments["guidance_scale"] * (c - u), t, x).prev_sample
    return x, len(kept)


@pytest.mark.parametrize(("order", "replay"), [(0, "prediction"), (1, "prediction"), (0, "residual"), (1, "residual")])
def test_whole_calls_equal_a_loop(order, replay):
    """Images of a batch decide for themselves."""
    threshold = 0.5
    case = build("sd_ddim")
    fast = accelerate(case.pipe, [SeaCache(threshold=threshold, replay=replay, order=order)])
    found = case.call(fast, [0, 1, 2])
    computed = fast.counts["sea_cache rows computed"]
    expected = [loop(case, image, threshold, order, replay) for image in (0, 1, 2)]
    assert computed == 2 * sum(calls for _, calls in expected) and computed < 6 * STEPS
    torch.testing.assert_close(found, torch.cat([image for image, _ in expected]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": float("nan")}, "threshold=nan must be 0 or more"),
        ({"threshold": -1.0}, "threshold=-1.0 must be 0 or more"),
        ({"power": float("nan")}, "power=nan must be from 0 to 16"),
        ({"order": 11}, "order=11 must be from 0 to 10"),
        ({"first": -1}, "first=-1 must be 0 or more"),
        ({"in_a_row": -2}, "in_a_row=-2 must be 0 or more, or -1"),
        ({"replay": "block"}, "unknown replay of SeaCache 'block'; did you mean 'blocks'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message) as error:
        SeaCache(**options)
    assert "\n" not in str(error.value)
