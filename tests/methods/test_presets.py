"""Names, options and stacks from YAML; a private method from a folder of one's own."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from postdiff import catalog, cli, methods
from postdiff.engine.errors import UsageError
from postdiff.methods import DeepCache, MixedResolution
from postdiff.presets import build_methods, describe, preset
from tests.support.own_methods import forgotten

ROOT = Path(__file__).parents[2]
METHOD = '''
"""Adds a constant to every prediction."""

from dataclasses import dataclass

from postdiff.methods.base import Method


@dataclass
class Nudge(Method):
    """Add `amount` to every prediction."""

    amount: float = 0.01

    def denoise(self, forward, sample, kwargs, state):
        return forward(sample, kwargs) + self.amount
'''
PRESET = """
label: nudge
reference: none
methods: [{nudge: {amount: 0.05}}]
identity: [{nudge: {amount: 0.0}}]
saves: false
"""


def test_stack_is_built_in_order_with_every_option():
    stack = build_methods(["deepcache", {"mixed_resolution": {"beta": 0.75}}])
    assert stack == [DeepCache(interval=2, branch=1), MixedResolution(beta=0.75)]
    assert describe(stack)[1]["mixed_resolution"]["history"] == "bilinear"


@pytest.mark.parametrize("name", catalog.names("methods"))
def test_every_preset_builds(name):
    one = preset(name)
    assert build_methods(one.methods)
    assert build_methods(one.identity)
    assert one.label
    assert one.reference


@pytest.mark.parametrize(
    "name", [name for name in catalog.names("methods") if catalog.shipped(catalog.path("methods", name))]
)
def test_every_preset_names_its_oracle(name):
    """A test of the authors' code or of a slow reference, for every class of the stack."""
    one = preset(name)
    assert one.oracle, f"{name} names no oracle; write `oracle: [FILE::TEST]`"
    stack, held = {type(method).__name__ for method in build_methods(one.methods)}, set()
    for each in one.oracle:
        file, test = each.split("::")
        text = (ROOT / file).read_text()
        assert test in {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}, each
        held |= {cls for cls in stack if re.search(rf"\b{cls}\b", text)}
    assert held == stack, "a class of the stack is in none of these files"


def test_every_method_has_an_operating_point_of_its_name():
    assert set(methods.names()) <= set(catalog.names("methods"))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([{"deepcache": {"interval:2": None}}], "has no value; YAML wants a space after the colon"),
        (["deepcash"], "unknown method 'deepcash'; did you mean 'deepcache'"),
        ([{"deepcash": {}}], "unknown method 'deepcash'; did you mean 'deepcache'"),
        ([{"deepcache": {"intervall": 2}}], "unknown option of deepcache 'intervall'; did you mean 'interval'"),
        ([{"deepcache": {"interval": "two"}}], "DeepCache: interval='two' must be int"),
        ([{"a": {}, "b": {}}], "a method is written as"),
        (
            [{"mixed_resolution": {"history": "rest"}}],
            "unknown history of MixedResolution 'rest'; did you mean 'reset'",
        ),
    ],
)
def test_mistakes_are_named(specs, message):
    with pytest.raises(UsageError, match=message):
        build_methods(specs)


@pytest.fixture
def private_folder(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "configs" / "methods").mkdir(parents=True)
    (tmp_path / "methods" / "nudge.py").write_text(METHOD)
    (tmp_path / "configs" / "methods" / "nudge.yaml").write_text(PRESET)
    with forgotten(tmp_path):
        yield tmp_path


def test_one_file_and_one_yaml_make_a_method(private_folder, monkeypatch, capsys):
    """It is listed with no other edit."""
    monkeypatch.setenv("POSTDIFF_PATH", str(private_folder))
    assert cli.main(["list", "methods"]) == 0
    assert "nudge" in capsys.readouterr().out


def test_a_folder_makes_a_method(private_folder, monkeypatch, capsys):
    """Its presets stand in it, the first of its own name, and its parts are imported from beside it."""
    file, folder = private_folder / "methods" / "nudge.py", private_folder / "methods" / "nudge"
    folder.mkdir()
    file.unlink()
    (private_folder / "configs" / "methods" / "nudge.yaml").unlink()
    (folder / "method.py").write_text(
        METHOD.replace("amount: float = 0.01", "amount: float = USUAL").replace(
            "from postdiff.methods.base import Method",
            "from postdiff.methods.base import Method\nfrom .usual import USUAL",
        )
    )
    (folder / "usual.py").write_text("USUAL = 0.25\n")
    (folder / "preset.yaml").write_text(PRESET)
    (folder / "nudge_far.yaml").write_text(PRESET.replace("0.05", "5.0"))
    monkeypatch.setenv("POSTDIFF_PATH", str(private_folder))
    assert cli.main(["list", "methods"]) == 0
    assert {"nudge", "nudge_far"} <= set(capsys.readouterr().out.split())
    assert describe(build_methods(["nudge", "nudge_far", {"nudge": {}}])) == [
        {"nudge": {"amount": amount}} for amount in (0.05, 5.0, 0.25)
    ]
    (folder / "preset.yaml").write_text(PRESET + "lable: y")
    with pytest.raises(UsageError, match="unknown key in nudge/preset.yaml 'lable'"):
        preset("nudge")
    file.write_text(METHOD)
    with pytest.raises(UsageError, match="method 'nudge' is defined twice: .*; rename one"):
        methods.find("nudge")


@pytest.mark.slow
def test_the_property_tests_take_it_up_and_catch_a_broken_identity(private_folder):
    """In a process of their own, for they ask for the names of presets as they are imported."""
    (private_folder / "configs" / "methods" / "shove.yaml").write_text(PRESET.replace("amount: 0.0}", "amount: 0.1}"))
    environment = {**os.environ, "POSTDIFF_PATH": str(private_folder)}
    chosen = ["-rA", "tests/methods/test_properties.py", "-k", "test_one_preset and sana and (nudge or shove)"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen]
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1, found.stdout + found.stderr
    for outcome, name in (("PASSED", "nudge"), ("FAILED", "shove")):
        test = f"tests/methods/test_properties.py::test_one_preset_on_one_pipeline[{name}-sana]"
        assert f"{outcome} {test}" in found.stdout, found.stdout


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("label: x", "lacks: reference, methods, identity"),
        (PRESET + "lable: y", "unknown key in nudge.yaml 'lable'; did you mean 'label'"),
        ("label: [", "is not valid YAML"),
    ],
)
def test_broken_preset_files(private_folder, monkeypatch, yaml, message):
    (private_folder / "configs" / "methods" / "nudge.yaml").write_text(yaml)
    monkeypatch.setenv("POSTDIFF_PATH", str(private_folder))
    with pytest.raises(UsageError, match=message):
        preset("nudge")


def test_missing_private_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="POSTDIFF_PATH names .*nowhere"):
        catalog.names("methods")
