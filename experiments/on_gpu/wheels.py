"""Packages for a machine without a network: carried wheels, put into a folder of their own that nothing else sees."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["install", "missing"]

ROOT = Path(__file__).parents[2]
# Of `postdiff[lab,official]`, what only other commands than `bench` and `profile` load.
UNUSED = {"wandb", "clean-fid", "ftfy", "sentencepiece", "protobuf", "beautifulsoup4"}
DISTRIBUTION = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9]")


def install(wheels: Path, target: Path) -> list[str]:
    """Unpack those wheels whose distribution the machine lacks, or has in another version.

    Args:
        wheels: a folder of .whl files.
        target: where they go; put it before all else on PYTHONPATH.

    Returns:
        Name and version of each.

    Raises:
        SystemExit: no wheels there, or pip refuses one.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"--wheels: there are no .whl files in {wheels}; name the folder that holds them")
    wanted = [file for file in found if _installed(_name(file)) != _version(file)]
    if wanted:
        words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
        done = subprocess.run([sys.executable, *words, *map(str, wanted)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"--wheels: pip refuses ({(done.stderr.strip().splitlines() or ['?'])[-1][:300]})")
    return [f"{_name(file)} {_version(file)}" for file in wanted]


def missing(target: Path, extras: Iterable[str] = ("lab", "official")) -> list[str]:
    """Distributions that the measurements load and neither this Python nor `target` has, going by pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])]
    names = [found[0] for one in asked if (found := DISTRIBUTION.match(one))]
    there = {_normal(str(one.name)) for one in metadata.distributions(path=[str(target), *sys.path])}
    return [name for name in names if _normal(name) not in UNUSED | there]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _name(wheel: Path) -> str:
    return _normal(wheel.name.split("-")[0])


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
