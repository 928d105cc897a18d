"""environment.yml, pyproject.toml and constraints.txt agree, and the base install is enough to import."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
# What setuptools brings to every virtual environment, or an operating system has: no package of ours.
ASIDE = {"pip", "setuptools", "wheel"}


def requirements(*extras, seen=()):
    """Those of the base install and of extras, extras within extras included."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in extras:
        for line in EXTRAS[extra]:
            one = Requirement(line)
            if canonicalize_name(one.name) != PROJECT["name"]:
                found.append(one)
            elif extra not in seen:
                found += requirements(*sorted(one.extras), seen=(*seen, extra))
    return found


def pins():
    """{package: version} of constraints.txt."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [line.partition("==") for line in lines if line]
    assert all(equals for _, equals, _ in found), "constraints.txt holds something else than name==version"
    names = [canonicalize_name(name) for name, _, _ in found]
    assert len(set(names)) == len(names), "constraints.txt pins a package twice"
    return dict(zip(names, (version for _, _, version in found), strict=True))


def environment():
    """Python's version, and the words that pip gets, of environment.yml."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    [python] = [one for one in content["dependencies"] if isinstance(one, str) and one.startswith("python=")]
    [for_pip] = [one["pip"] for one in content["dependencies"] if isinstance(one, dict)]
    assert "pip" in content["dependencies"], "conda warns if pip is used and not named"
    return python.removeprefix("python="), [tuple(line.split()) for line in for_pip]


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_every_package_is_pinned_within_its_range(extra):
    pinned = pins()
    for one in requirements(*([extra] if extra else [])):
        version = pinned.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name} is in pyproject.toml and not in constraints.txt"
        assert one.specifier.contains(version, prereleases=True), f"{one.name} is pinned at {version}, not {one}"


def closure(wanted):
    """Names of packages and of all that they need here, as far as they are installed."""
    found, todo = set(), list(wanted)
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            needed = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        if (name, *sorted(one.extras)) in found:
            continue
        found.add((name, *sorted(one.extras)))
        for extra in ("", *one.extras):
            for other in needed:
                if other.marker is None or other.marker.evaluate({"extra": extra}):
                    todo.append(Requirement(re.sub(r";.*", "", str(other))))
    return {name for name, *_ in found} - ASIDE


def test_what_the_packages_need_is_pinned_too():
    missing = closure(requirements(*EXTRAS)) - set(pins())
    assert not missing, f"not in constraints.txt: {sorted(missing)}"


def test_the_conda_environment_is_pyproject():
    python, words = environment()
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert (
        python == TOOLS["mypy"]["python_version"] and f"py{python.replace('.', '')}" == TOOLS["ruff"]["target-version"]
    )
    installed, files = [], []
    for word in words:
        if word[0] == "-c":
            files.append(word[1])
        elif word[0] == "-e":
            installed.append(Requirement(f"{PROJECT['name']}{word[1].removeprefix('.')}"))
        else:
            stray = Requirement(word[0])
            declared = {canonicalize_name(one.name): one.specifier for one in requirements(*EXTRAS)}
            assert declared.get(canonicalize_name(stray.name)) == stray.specifier, f"{stray} is not in pyproject.toml"
    assert files == ["constraints.txt"] and len(installed) == 1
    assert installed[0].extras <= set(EXTRAS), "an extra that pyproject.toml does not have"
    everything = {canonicalize_name(one.name) for one in requirements(*EXTRAS)}
    covered = {canonicalize_name(one.name) for one in requirements(*installed[0].extras)}
    assert everything == covered, f"the environment lacks {sorted(everything - covered)}"


def test_the_tests_have_all_they_need():
    """`make test` installs the extra `test` alone; tests of scores with packages of their own do without these."""
    covered = {canonicalize_name(one.name) for one in requirements("test")}
    assert {canonicalize_name(one.name) for one in requirements("lab", "control", "lora", "tensorboard")} <= covered
    assert {"nbclient", "ipykernel"} <= covered
    assert '-c constraints.txt -e ".[test]"' in (ROOT / "Makefile").read_text()


def imported(folder):
    """Top names of what the files of a folder import, anywhere in them."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"postdiff", "__future__"}


# These may be there or not; the code says so where it asks for them, or a declared one brings them.
UNDECLARED = {"controlnet_aux", "tokenizers", "huggingface_hub"}


@pytest.mark.parametrize(
    ("folder", "extras"), [("engine", []), ("methods", []), (".", sorted(set(EXTRAS) - {"test", "notebooks"}))]
)
def test_every_import_is_declared(folder, extras):
    declared = {canonicalize_name(one.name) for one in requirements(*extras)}
    known = metadata.packages_distributions()
    for name in imported(ROOT / "postdiff" / folder) - UNDECLARED:
        # Of a package that is not installed nobody knows what it is called when it is asked for.
        packages = {canonicalize_name(package) for package in known.get(name, declared)}
        assert packages & declared, f"postdiff/{folder} imports {name}, of {sorted(packages)}, which is not declared"


@pytest.mark.slow
def test_the_base_install_is_enough_to_import(tmp_path):
    """In a folder that holds the base install and what it needs, and nothing else."""
    names = closure(requirements())
    tops = {
        file.parts[0]
        for name in names
        for file in metadata.files(name) or []
        if file.parts[0] not in ("..", "__pycache__") and not file.parts[0].endswith((".dist-info", ".pth"))
    }
    assert "torch" in tops and not tops & {"lightning", "omegaconf", "wandb", "torchmetrics", "tensorboard"}
    base = Path(metadata.distribution("torch").locate_file(""))
    for name in names:
        for info in base.glob("*.dist-info"):
            if canonicalize_name(info.name.split("-")[0]) == name:
                tops.add(info.name)
    for top in tops:
        if (base / top).exists():
            (tmp_path / top).symlink_to(base / top)
    (tmp_path / "postdiff").symlink_to(ROOT / "postdiff")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import postdiff.methods, postdiff.presets\n"
        "from postdiff import accelerate\n"
        "from postdiff.methods import DeepCache\n"
        "from diffusers import StableDiffusionPipeline\n"
        "print(accelerate.__module__, DeepCache(interval=2).interval, StableDiffusionPipeline.__name__)"
    )
    # -S: no site-packages; -I: nothing of the environment.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["2", "StableDiffusionPipeline"]
