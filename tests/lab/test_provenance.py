"""What a record says of a GPU: read, never set, and absent where nobody tells."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from postdiff.lab.devices import provenance


@pytest.fixture
def asked(monkeypatch):
    """A machine whose tool answers with `asked.answer`; `asked.words` are those that it was called with."""
    seen = SimpleNamespace(words=None, answer="")

    def run(words, **_):
        seen.words = words
        if seen.answer is None:
            raise FileNotFoundError("nvidia-smi")
        return SimpleNamespace(stdout=seen.answer)

    monkeypatch.setattr(provenance, "subprocess", SimpleNamespace(run=run, SubprocessError=subprocess.SubprocessError))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-ab"))
    return seen


def test_clocks_and_power_as_the_tool_reports_them(asked):
    asked.answer = "535.12, 1980, [N/A], 3201, 700.00, 120.5\n"
    assert provenance.nvidia_smi("cuda:1") == {
        "driver": "535.12",
        "clock_mhz": 1980,
        "memory_clock_mhz": 3201,
        "power_limit_w": 700,
        "power_w": 120.5,
    }
    assert "--id=GPU-12-ab" in asked.words
    assert not [word for word in asked.words if word.startswith(("-lgc", "-pl", "--lock", "--power", "-pm"))]


@pytest.mark.parametrize("answer", [None, "", "No devices were found\n"])
def test_without_an_answer_nothing_is_said(asked, answer):
    asked.answer = answer
    assert provenance.nvidia_smi("cuda") == {}


def test_it_is_part_of_what_times_depend_on(asked):
    asked.answer = "535.12, 1980, 1980, 3201, 700, 120\n"
    found = provenance.environment("cuda")
    assert found["power_limit_w"] == 700 and "tf32" in found
