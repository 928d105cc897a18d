"""Where named YAML files live: `configs/<kind>/<name>.yaml`.

The shipped files stand in the repository's `configs/` folder and travel inside the wheel as `postdiff/configs`.
Folders named in the environment variable `POSTDIFF_PATH` (separated like `PATH`) are searched as well; each may
hold `configs/<kind>/*.yaml` and `methods/*.py`, so a private method or experiment needs no change here.
"""

from __future__ import annotations

import os
from pathlib import Path

from postdiff.engine.errors import UsageError, unknown

__all__ = ["KINDS", "extra_roots", "names", "path"]

KINDS = ("experiments", "models", "methods", "data", "structures")


def extra_roots() -> list[Path]:
    """Folders of `POSTDIFF_PATH`, in order.

    Raises:
        UsageError: a folder does not exist.
    """
    roots = [Path(part).expanduser() for part in os.environ.get("POSTDIFF_PATH", "").split(os.pathsep) if part]
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"POSTDIFF_PATH names '{root}', which is not a folder; create it or unset the variable")
    return roots


def _config_roots() -> list[Path]:
    package = Path(__file__).parent
    shipped = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return [shipped, *(root / "configs" for root in extra_roots())]


def _files(kind: str) -> dict[str, Path]:
    if kind not in KINDS:
        raise unknown("kind of config", kind, KINDS)
    found: dict[str, Path] = {}
    for root in _config_roots():
        for file in sorted((root / kind).rglob("*.yaml")):
            name = file.relative_to(root / kind).with_suffix("").as_posix()
            if name in found:
                raise UsageError(f"{kind} '{name}' is defined twice: {found[name]} and {file}; rename one")
            found[name] = file
    return found


def names(kind: str) -> list[str]:
    """All names of a kind, sorted; nested files read `folder/name`."""
    return sorted(_files(kind))


def path(kind: str, name: str) -> Path:
    """The file behind a name.

    Raises:
        UsageError: no such file; the nearest name is suggested.
    """
    files = _files(kind)
    if name not in files:
        raise unknown(kind.removesuffix("s"), name, files)
    return files[name]
