"""Spectra of images whose waves are known; the programs on spectra and on fewer steps, on the tiny model."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from postdiff.lab.analysis import findings
from postdiff.lab.analysis.findings import Findings
from postdiff.lab.analysis.spectrum import frequencies, log_amplitudes

PROGRAMS = Path(__file__).parents[2] / "experiments"


def wave(height, width, cycles, axis):
    place = torch.arange((height, width)[axis], dtype=torch.float64) / (height, width)[axis]
    line = 0.5 + 0.25 * torch.cos(2 * math.pi * cycles * place)
    return (line[:, None] if axis == 0 else line).expand(height, width)[None, None]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_is_in_the_ring_of_its_frequency(axis):
    found = log_amplitudes(wave(32, 32, 5, axis))[0]
    assert found.shape == (17,) == (len(frequencies(32)),)
    rest = torch.cat([found[1:5], found[6:]])
    assert int(found[1:].argmax()) + 1 == 5 and (rest == -6).all()
    assert found[0] == pytest.approx(math.log10(0.5 * 32 * 32))
    assert frequencies(32)[5] == 5 / 32 and frequencies(32)[-1] == 0.5


def test_a_ring_is_one_frequency_in_both_directions_of_a_long_image():
    down, across = log_amplitudes(wave(16, 32, 4, 0)), log_amplitudes(wave(16, 32, 8, 1))
    assert int(down[0, 1:].argmax()) == int(across[0, 1:].argmax()) == 3


def test_against_a_loop():
    image = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    logs = np.log10(np.abs(np.fft.fft2(image.double().numpy())))
    expected = np.zeros((2, 7))
    for ring in range(7):
        members = [
            logs[:, :, y, x]
            for y in range(12)
            for x in range(12)
            if round(math.hypot(min(y, 12 - y), min(x, 12 - x))) == ring
        ]
        expected[:, ring] = np.mean(members, axis=(0, 2))
    np.testing.assert_allclose(log_amplitudes(image).numpy(), expected, rtol=1e-6)


def test_blur_lowers_high_frequencies():
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(image, (1, 1, 1, 1), mode="circular"), 3, 1)
    lost = (log_amplitudes(image) - log_amplitudes(blurred))[0]
    assert abs(lost[0]) < 1e-6 and lost[12:].min() > lost[1] > 0


def load(name):
    spec = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_spectrum_program(tiny, outputs, capsys):
    words = ["model=tiny", "data=tiny", "steps=4", "count=2", "--keys", "2"]
    assert load("noise_spectrum").main(words) == 0
    printed = capsys.readouterr()
    record = findings.find("faster_diffusion/features", "noise_spectrum", "")
    labels = ["baseline", "propagation", "propagation, noise 0.003", "propagation, noise 0.03"]
    assert list(record.found["log_amplitude"]) == labels and list(record.found["difference"]) == labels[1:]
    assert len(record.found["frequencies"]) == 17 == len(record.found["difference"]["propagation"]["mean"])
    assert any(abs(value) > 0 for value in record.found["difference"]["propagation"]["mean"])
    assert printed.out.count("propagation") == 3
    assert load("noise_spectrum").main([*words, "methods=[tome]"]) == 2
    assert "methods=... is set by this program itself" in capsys.readouterr().err
    assert load("noise_spectrum").main([*words[:-1], "[1,2]"]) == 2
    assert "must hold step 0" in capsys.readouterr().err


def test_the_program_on_fewer_steps(tiny, outputs, monkeypatch):
    program = load("fewer_steps")
    monkeypatch.setattr(program, "SWEEP", (5, 3))
    monkeypatch.setattr(program, "FEWER", {"ddim": (5, 2), "dpm_solver": (3, 2)})
    assert program.main(["model=tiny", "data=tiny", "count=2"]) == 0
    record = Findings.read(findings.fresh_path("faster_diffusion/features", "fewer_steps"))
    assert set(record.arrays) == set(record.settings["settings"])
    assert {array.shape for array in record.arrays.values()} == {(2, 32, 32, 3)}
    assert record.found["keys"]["ddim_5_ours"] == [0, 2, 4]
    assert not np.array_equal(record.arrays["ddim_5"], record.arrays["ddim_5_ours"])


def test_key_steps_of_any_run():
    keys = load("fewer_steps").keys
    assert keys(50) == "sd_50" and keys(20) == "sd_20"
    assert keys(40) == [0, 1, 2, 4, 8, 12, 20, 28], "the set for 50 steps shrunk"
    assert keys(10) == [0, 2, 4, 6, 8] and keys(5) == [0, 2, 4]
