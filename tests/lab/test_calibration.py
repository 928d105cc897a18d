"""Calibrations equal straight sums over outputs, and what diffusers measures; their files are what caches take."""

import importlib.util
import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers.hooks.mag_cache import MagCacheConfig, apply_mag_cache
from scipy.fft import dctn

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.analysis import latent_power
from postdiff.lab.analysis.calibration import BlockChanges, MagnitudeRatios
from postdiff.lab.analysis.latent_power import LatentPower, fit
from postdiff.methods import BlockCache, MagCache, MixedResolution
from tests.support.tiny import STEPS, build

PROGRAM = Path(__file__).parents[2] / "experiments" / "calibrate.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("calibrate", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changes_of_blocks():
    case, observer = build("sd"), BlockChanges()
    name = "down_blocks.0.attentions.0"
    outputs = []
    handle = case.pipe.unet.get_submodule(name).register_forward_hook(lambda m, a, out: outputs.append(out[0].clone()))
    expected = case.call(case.pipe)
    handle.remove()
    assert torch.equal(case.call(accelerate(case.pipe, [observer])), expected), "observing changes nothing"
    found = observer.values()
    changes = [0.0] + [
        float((now - before).abs().sum() / now.abs().sum()) for before, now in itertools.pairwise(outputs)
    ]
    assert found[name] == pytest.approx(changes, rel=1e-5)
    assert all(len(values) == STEPS for values in found.values()) and len(found) > 3


def test_magnitude_ratios_are_those_that_diffusers_prints(capsys):
    case, observer = build("dit"), MagnitudeRatios()
    case.call(accelerate(case.pipe, [observer]))
    case = build("dit")
    apply_mag_cache(case.pipe.transformer, MagCacheConfig(num_inference_steps=STEPS, calibrate=True))
    capsys.readouterr()
    case.call(case.pipe)
    printed = re.search(r"\[([\d., e+-]+)\]\s*$", capsys.readouterr().out.strip())
    assert observer.values() == pytest.approx(json.loads(printed.group(0)), rel=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (9, 6)])
def test_a_power_law_is_found_again(size):
    """In frequencies of the shorter side, and whatever the mean and the corners hold."""
    down, across = (torch.arange(side, dtype=torch.float64) * min(size) / side / 2 for side in size)
    frequency = (down[:, None].square() + across.square()).sqrt()
    power = 5.0 * frequency.clamp(min=0.1) ** -1.75
    power[0, 0], power[frequency > min(size) / 2] = 1e6, 1e3
    amplitude, exponent = fit(power)
    assert exponent == pytest.approx(1.75, rel=0.06)
    for edge in (min(size) / 4, min(size) / 3):
        assert amplitude * edge**-exponent == pytest.approx(5.0 * edge**-1.75, rel=0.05)


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (torch.ones(8, 8), "no less power at higher frequencies"),
        (torch.zeros(8, 8), "no less power at higher frequencies"),
        (torch.ones(2, 2), "too few frequencies"),
    ],
)
def test_what_follows_no_power_law(power, message):
    with pytest.raises(UsageError, match=message):
        fit(power.double())


def test_power_of_finished_latents(monkeypatch):
    """Against scipy's transform of what the pipeline returns; two calls of different batches add up."""
    case, observer = build("sd"), LatentPower()
    fast, latents = accelerate(case.pipe, [observer]), []
    for ids in ([0, 1], [2]):
        expected = case.call(case.pipe, ids)
        latents.append(case.call(fast, ids))
        assert torch.equal(latents[-1], expected), "observing changes nothing"
    planes = torch.cat(latents).double().numpy()
    power = torch.from_numpy(dctn(planes, axes=(-2, -1), norm="ortho") ** 2).mean((0, 1))
    fitted = []  # random weights follow no law
    monkeypatch.setattr(latent_power, "fit", lambda power: fitted.append(power) or (5.0, 1.5))
    wanted = {"amplitude": 5.0, "exponent": 1.5, "height": 16, "width": 16, "channels": 4, "scaling": 0.18215}
    assert observer.values() == wanted
    torch.testing.assert_close(fitted[0], power, rtol=1e-5, atol=1e-8)
    with pytest.raises(UsageError, match="latents of one size"):
        case.call(fast, [0], height=48, width=48)
    with pytest.raises(UsageError, match="has seen no finished latents"):
        LatentPower().values()


def test_calls_of_different_lengths_do_not_mix():
    case, observer = build("dit"), MagnitudeRatios()
    fast = accelerate(case.pipe, [observer])
    case.call(fast)
    case.call(fast, num_inference_steps=4)
    with pytest.raises(UsageError, match="whole calls with one number of steps"):
        observer.values()


def test_the_program_writes_what_the_cache_takes(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    assert program.main(["block_cache", "steps=4", "count=1"]) == 0
    file = tmp_path / "calibrations" / "block_cache_emoji_ddim_4.json"
    assert str(file) in capsys.readouterr().out
    method = BlockCache(threshold=0.2, changes=str(file))
    assert method.changes == json.loads(file.read_text())["changes"], "the numbers are the run's, not the path"
    case = build("sd")
    with pytest.raises(UsageError, match="is of 4 steps, and this run has 8"):
        case.call(accelerate(case.pipe, [method]))
    with pytest.raises(UsageError, match="another network"):
        case.call(accelerate(case.pipe, [BlockCache(changes={"mid_block.attentions.0": [0.1] * STEPS})]))


def test_the_program_writes_what_finds_a_switch(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    assert program.main(["mixed_resolution", "steps=4", "count=4"]) == 0
    file = tmp_path / "calibrations" / "mixed_resolution_emoji_ddim_4.json"
    assert str(file) in capsys.readouterr().out
    method = MixedResolution(switch="auto", spectrum=str(file))
    shipped = MixedResolution(switch="auto", spectrum="emoji").spectrum
    assert {**method.spectrum, "amplitude": 0, "exponent": 0} == {**shipped, "amplitude": 0, "exponent": 0}
    assert method.spectrum == json.loads(file.read_text())["spectrum"]


def test_the_program_ends_in_one_line(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path))
    assert program.main(["mag_cache", "steps=4", "count=1"]) == 2
    assert "needs a transformer with a chain of blocks" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is no calibration"):
        MagCache(ratios=str(tmp_path / "missing.json"))
