"""Where tensors are made: the driver and the methods name the device of every one."""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._device import _device_constructors

import postdiff
from postdiff.engine.ownership import same_memory
from tests.support.elsewhere import DEVICE, elsewhere

PACKAGE = Path(postdiff.__file__).parent
FILES = sorted(
    file
    for part in ("engine", "methods")
    for file in (PACKAGE / part).rglob("*.py")
    if file.stem != "reference" and file.parent.name != "formulas"  # what tests compare with, on the CPU
)
MAKERS = {made.__name__ for made in _device_constructors()} - {"as_tensor"}


def homeless(source):
    """Calls of torch in `source` that make a tensor on whatever device is the default one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func
            of_torch = isinstance(called.value, ast.Name) and called.value.id == "torch"
            if of_torch and called.attr in MAKERS and all(word.arg != "device" for word in node.keywords):
                yield f"line {node.lineno}: torch.{called.attr}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_tensor_that_is_made_names_its_device(file):
    """`torch.set_default_device("cuda")` moves none; and what is made for the CPU is meant so."""
    assert not list(homeless(file.read_text()))


def test_that_would_be_seen():
    assert list(homeless("import torch\ntorch.zeros(2, dtype=torch.bool)")) == ["line 2: torch.zeros"]
    assert not list(homeless("import torch\ntorch.zeros(2, device='cpu')"))


def test_the_second_device_refuses_what_a_gpu_refuses():
    with elsewhere():
        there, here = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3)
        for wrong in (
            lambda: there + here,
            lambda: here.add_(there),
            lambda: torch.cat([there, here]),
            lambda: torch.where(here > 0, there, there),
            lambda: here[torch.ones(1, dtype=torch.long, device=DEVICE)],
            lambda: torch.randn(2, device=DEVICE, generator=torch.Generator()),
            lambda: there.numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
        there += torch.tensor(1.0)
        assert there.device == DEVICE and there[torch.tensor([1])].tolist() == [[2.0, 2.0, 2.0]]
        assert there.cpu().device.type == "cpu" and here.copy_(there).tolist() == [[2.0] * 3] * 2


def test_reading_back_from_the_second_device_is_counted():
    with elsewhere() as waits:
        there = torch.ones(2, device=DEVICE)
        there *= 2
        assert not waits
        assert float(there.sum()) == 4 and (there == 2).all()
    assert waits == {"aten._local_scalar_dense.default": 2}


def test_tensors_whose_addresses_are_unknown_are_not_taken_for_one():
    with elsewhere():
        one, other = torch.zeros(2, device=DEVICE), torch.ones(2, device=DEVICE)
        assert same_memory(one, one) and not same_memory(one, other)
