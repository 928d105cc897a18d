"""Latents enlarged by their waves, in float64 against matrices written out; and the power law that says when."""

import math

import pytest
import torch
from scipy.fft import dctn, idctn

from postdiff import catalog
from postdiff.engine import spectral
from postdiff.engine.errors import UsageError
from postdiff.methods.mixed_resolution import block_noise, power_law
from postdiff.methods.mixed_resolution.power_law import PowerLaw

SIZES = [((4, 4), (8, 8)), ((3, 5), (4, 9)), ((5, 3), (7, 9)), ((4, 4), (4, 8)), ((4, 5), (4, 5)), ((1, 1), (2, 3))]
CONTINUED = {"cosine": spectral.continued, "haar": block_noise.continued}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def haar(low, full):
    """(full, low): every small pixel spread over its block, for whole ratios."""
    return torch.eye(low, dtype=torch.float64).repeat_interleave(full // low, 0) / math.sqrt(full // low)


@pytest.mark.parametrize(("low", "full"), SIZES)
@pytest.mark.parametrize("kind", CONTINUED)
def test_the_map_from_both_noises_to_the_large_one_keeps_it_white(kind, low, full):
    """M (x, n) = large noise has M M' = 1, exactly."""
    small, large = math.prod(low), math.prod(full)
    ones = [torch.eye(side, dtype=torch.float64).view(side, *size) for side, size in ((small, low), (large, full))]
    zeros = [torch.zeros(side, *size, dtype=torch.float64) for side, size in ((small, full), (large, low))]
    kept, new = CONTINUED[kind](ones[0], zeros[0]), CONTINUED[kind](zeros[1], ones[1])
    linear = torch.cat([kept.flatten(1), new.flatten(1)]).T
    torch.testing.assert_close(linear @ linear.T, torch.eye(large, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(kept.flatten(1) @ kept.flatten(1).T, ones[0].flatten(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("low", "full"), SIZES)
def test_waves_go_to_the_low_band_and_the_rest_is_fresh(low, full):
    """Against scipy's transform: small coefficients in the corner, those of the fresh noise everywhere else."""
    small, fresh = noise(2, 3, *low), noise(2, 3, *full, seed=1)
    wanted = dctn(fresh.numpy(), axes=(-2, -1), norm="ortho")
    wanted[..., : low[0], : low[1]] = dctn(small.numpy(), axes=(-2, -1), norm="ortho")
    wanted = torch.from_numpy(idctn(wanted, axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(spectral.continued(small, fresh), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("low", "full"), SIZES)
def test_a_clean_latent_keeps_the_height_of_its_waves(low, full):
    small = noise(2, 3, *low)
    found = spectral.enlarge(small, full)
    torch.testing.assert_close(found.mean((-2, -1)), small.mean((-2, -1)), rtol=0, atol=1e-12)
    ratio = math.prod(full) / math.prod(low)
    torch.testing.assert_close(found.square().sum(), ratio * small.square().sum(), rtol=1e-12, atol=0)
    flat = spectral.enlarge(torch.full((1, *low), 0.7, dtype=torch.float64), full)
    torch.testing.assert_close(flat, torch.full((1, *full), 0.7, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_types_are_those_of_float64_rounded(dtype):
    small, fresh = noise(2, 4, 24, 40).to(dtype), noise(2, 4, 64, 96, seed=1).to(dtype)
    near = 4 * torch.finfo(dtype).eps
    for found, wanted in (
        (spectral.enlarge(small, (64, 96)), spectral.enlarge(small.double(), (64, 96))),
        (spectral.continued(small, fresh), spectral.continued(small.double(), fresh.double())),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=near, atol=4 * near)


def test_videos_frame_by_frame():
    small, fresh = noise(1, 2, 3, 4, 6), noise(1, 2, 3, 8, 9, seed=1)
    frame = spectral.continued(small[:, :, 1], fresh[:, :, 1])
    torch.testing.assert_close(spectral.continued(small, fresh)[:, :, 1], frame, rtol=0, atol=1e-13)


# Kind of latents: (alpha, sigma) at a level, and (alpha, sigma) at another noise over signal.
LEVELS = {
    "vp": (lambda: (math.sqrt(0.3), math.sqrt(0.7)), lambda rho: (1 / math.hypot(1, rho), rho / math.hypot(1, rho))),
    "ve": (lambda: (1.0, 1.7), lambda rho: (1.0, rho)),
    "flow": (lambda: (0.35, 0.65), lambda rho: (1 / (1 + rho), rho / (1 + rho))),
}


def enlarged(x, sigma, fresh, rows, columns):
    """The noisy latent itself: E x E' + sigma (n - EE' n EE')."""
    low = rows @ rows.T @ fresh @ columns @ columns.T
    return rows @ x @ columns.T + sigma * (fresh - low)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("basis", ["cosine", "haar"])
def test_the_enlarged_noisy_latent_is_one_of_the_aligned_level(kind, basis):
    """Scaled, it is alpha' r E x0 E' + sigma' noise at r times its noise over signal."""
    low, full, r = (4, 6), (8, 12), 2
    (alpha, sigma), aligned = LEVELS[kind][0](), LEVELS[kind][1]
    x0, eps, fresh = noise(2, 3, *low), noise(2, 3, *low, seed=1), noise(2, 3, *full, seed=2)
    basis_of = haar if basis == "haar" else spectral.basis
    rows, columns = (basis_of(small, large) for small, large in zip(low, full, strict=True))
    large = enlarged(alpha * x0 + sigma * eps, sigma, fresh, rows, columns)
    new_alpha, new_sigma = aligned(r * sigma / alpha)
    scale = new_sigma / sigma
    clean = spectral.enlarge(x0, full) if basis == "cosine" else r * rows @ x0 @ columns.T
    ours = new_alpha * clean + new_sigma * CONTINUED[basis](eps, fresh)
    torch.testing.assert_close(ours, scale * large, rtol=0, atol=1e-12)
    known = {"vp": (0.3111, 0.9504), "ve": (1.0, 3.4), "flow": (0.2121, 0.7879)}
    assert (new_alpha, new_sigma) == pytest.approx(known[kind], abs=1e-4)
    if kind == "vp":
        assert scale == pytest.approx((alpha**2 / r**2 + sigma**2) ** -0.5)
    if kind == "flow":
        assert scale == pytest.approx(r / (1 + (r - 1) * sigma))


@pytest.mark.parametrize("kind", LEVELS)
def test_signal_and_noise_of_many_enlarged_latents(kind):
    """4,000 of them from 16 to 32 pixels: the signal of the low band, and noise of one strength in both bands."""
    alpha, sigma = LEVELS[kind][0]()
    x0, eps, fresh = noise(16, 16), noise(4_000, 16, 16, seed=1), noise(4_000, 32, 32, seed=2)
    rows = spectral.basis(16, 32)
    large = enlarged(alpha * x0 + sigma * eps, sigma, fresh, rows, rows)
    clean = spectral.enlarge(x0, (32, 32))
    factor = (large.mean(0) * clean).sum() / clean.square().sum()
    assert float(factor) == pytest.approx(alpha / 2, abs=0.003)
    left = large - alpha / 2 * clean
    waves = spectral.waves(32, 32) @ left @ spectral.waves(32, 32).T
    old = torch.zeros(32, 32, dtype=torch.bool)
    old[:16, :16] = True
    for band in (old, ~old):
        assert float(waves[:, band].square().mean()) == pytest.approx(sigma**2, rel=0.004)
    assert float(waves.square().mean(0).std()) == pytest.approx(sigma**2 * math.sqrt(2 / 4_000), rel=0.1)
    neighbours = (left[:, :, 1:] * left[:, :, :-1]).mean() / left.square().mean()
    assert abs(float(neighbours)) < 0.003


def test_for_ddim_it_is_the_enlarged_latent_and_a_jump_along_the_old_prediction():
    """Enlarge at t, go to the aligned level t', and step from there to t_n as DDIM does: the same, in float64."""
    low, full = (5, 6), (9, 12)
    r = math.sqrt(math.prod(full) / math.prod(low))
    alpha, sigma, alpha_n, sigma_n = 0.5, math.sqrt(0.75), 0.6, 0.8
    x0, eps, fresh = noise(2, 3, *low), noise(2, 3, *low, seed=1), noise(2, 3, *full, seed=2)
    rows, columns = (spectral.basis(small, large) for small, large in zip(low, full, strict=True))
    new_alpha, new_sigma = LEVELS["vp"][1](r * sigma / alpha)
    x = new_sigma / sigma * enlarged(alpha * x0 + sigma * eps, sigma, fresh, rows, columns)
    clean = spectral.enlarge(x0, full)
    jumped = alpha_n * clean + sigma_n * (x - new_alpha * clean) / new_sigma
    ours = alpha_n * clean + sigma_n * spectral.continued(eps, fresh)
    torch.testing.assert_close(ours, jumped, rtol=0, atol=1e-12)


def shipped(name):
    return power_law.power_law(catalog.read(catalog.path("spectra", name))["spectrum"], "MixedResolution")


def as_time(ratio):
    return ratio / (1 + ratio)


@pytest.mark.parametrize(
    ("name", "power", "times"),
    [("flux1", 0.267, (0.853, 0.718)), ("wan21", 0.116, (0.782, 0.612))],
)
def test_published_laws_give_the_published_times(name, power, times):
    law = shipped(name)
    assert law.power(0.5) == pytest.approx(power, abs=1e-3)
    for tolerance, time in zip((0.01, 0.05), times, strict=True):
        ratio = law.last_ratio(0.5, tolerance)
        assert as_time(ratio) == pytest.approx(time, abs=1e-3)
        q = law.power(0.5) / ratio**2
        assert (1 + law.power(0.5)) * q / (1 + q) == pytest.approx(tolerance, rel=1e-9)


@pytest.mark.parametrize(
    ("tolerance", "strict", "small"), [(0.01, False, 18), (0.05, False, 28), (0.01, True, 27), (0.05, True, 36)]
)
def test_small_steps_of_fifty_on_flux(tolerance, strict, small):
    """Its schedule for 1024 px: 50 even times, shifted by exp(1.15)."""
    times = [1 - step / 50 for step in range(50)]
    ratios = [math.inf if time == 1 else math.exp(1.15) * time / (1 - time) for time in times]
    assert power_law.moments(
        shipped("flux1"), [0.5], tolerance, dict(enumerate(ratios)), strict, "MixedResolution"
    ) == [small]


def test_every_stage_has_its_own_moment_among_those_that_there_are():
    law, ratios = PowerLaw(1.0, 1.0, 8, 8, 4, 1.0), dict(enumerate([16.0, 8.0, 4.0, 2.6, 2.2, 1.6, 1.1, 0.5]))
    limits = [law.last_ratio(share, 0.1) for share in (0.5, 0.75)]
    assert limits == pytest.approx([math.sqrt(0.5 * 1.4 / 0.1), math.sqrt((1 / 3) * (1 / 3 + 0.9) / 0.1)])
    assert power_law.moments(law, [0.5, 0.75], 0.1, ratios, strict=False, method="M") == [3, 5]
    assert power_law.moments(law, [0.5, 0.75], 0.1, ratios, strict=True, method="M") == [5, 6]
    even = {step: ratio for step, ratio in ratios.items() if step % 2 == 0}
    assert power_law.moments(law, [0.5, 0.75], 0.1, even, strict=False, method="M") == [4, 6]
    with pytest.raises(UsageError, match="auto' leaves no step to beta=0.51; take it further from the one before"):
        power_law.moments(law, [0.5, 0.51], 0.1, ratios, strict=False, method="M")


SOUND = {"amplitude": 1.0, "exponent": 1.0, "height": 8, "width": 8, "channels": 4, "scaling": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amplitude": 0.0}, "amplitude='?0.0'? of spectrum must be a number above 0"),
        ({"exponent": math.nan}, "exponent=nan of spectrum must be a number above 0"),
        ({"exponent": math.inf}, "exponent=inf of spectrum must be a number above 0"),
        ({"height": 8.5}, "height=8.5 of spectrum must be a whole number above 0"),
        ({"width": True}, "width=True of spectrum must be a whole number above 0"),
        ({"scale": 1.0}, "must have the keys amplitude, exponent, height, width, channels, scaling"),
    ],
)
def test_broken_laws(changes, message):
    with pytest.raises(UsageError, match=f"MixedResolution: .*{message}"):
        power_law.power_law({**SOUND, **changes}, "MixedResolution")
    with pytest.raises(UsageError, match="must have the keys"):
        power_law.power_law([1.0, 2.0], "MixedResolution")
