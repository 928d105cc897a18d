"""Where named YAML files live: `configs/<kind>/<name>.yaml`.

The shipped files stand in the repository's `configs/` folder and travel inside the wheel as `postdiff/configs`.
Presets of one method stand in its folder as well: `methods/<name>/preset.yaml` is called as the folder is, any other
YAML file beside it by its own name. Folders named in the environment variable `POSTDIFF_PATH` (separated like `PATH`)
are searched as well; each may hold `configs/<kind>/*.yaml` and `methods/<name>/*.yaml`, so a private experiment needs
no change here. Python files: `engine.plugins`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from postdiff import safe_yaml
from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.values import decoded

__all__ = ["names", "path", "read", "shipped"]

_PACKAGE = Path(__file__).parent
_SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def shipped(file: Path) -> bool:
    """Whether a file came with the package."""
    return file.is_relative_to(_SHIPPED) or file.is_relative_to(_PACKAGE)


def _files(kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, file in [*_configs(kind), *(_beside_methods() if kind == "methods" else ())]:
        if name in found:
            raise UsageError(f"{kind} '{name}' is defined twice: {found[name]} and {file}; rename one")
        found[name] = file
    return found


def _configs(kind: str) -> Iterator[tuple[str, Path]]:
    for root in (_SHIPPED, *(root / "configs" for root in plugins.roots())):
        for file in sorted((root / kind).rglob("*.yaml")):
            yield file.relative_to(root / kind).with_suffix("").as_posix(), file


def _beside_methods() -> Iterator[tuple[str, Path]]:
    for folder in plugins.folders("methods"):
        for file in sorted(folder.glob("*/*.yaml")):
            yield (file.parent.name if file.stem == "preset" else file.stem), file


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


def read(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: there is no such file to read, it is too large, not UTF-8, not YAML, or holds no mapping.
    """
    if not file.is_file():
        raise UsageError(f"{file} is no file that can be read; put a YAML file in its place")
    if file.stat().st_size > safe_yaml.MOST_CHARACTERS:
        raise UsageError(f"{file} has more than {safe_yaml.MOST_CHARACTERS} bytes; write less")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror or error}); give yourself the right to") from None
    found = safe_yaml.parsed(decoded(content, file).removeprefix("\ufeff"), str(file))
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no keys; it must be a YAML mapping")
    return found
