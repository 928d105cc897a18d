"""Where named YAML files live: `configs/<kind>/<name>.yaml`.

The shipped files stand in the repository's `configs/` folder and travel inside the wheel as `postdiff/configs`.
Folders named in the environment variable `POSTDIFF_PATH` (separated like `PATH`) are searched as well; each may
hold `configs/<kind>/*.yaml` and `methods/*.py`, so a private method or experiment needs no change here.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

from postdiff import safe_yaml
from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.values import decoded, expanded

__all__ = ["KINDS", "extra_roots", "is_private", "names", "path", "place_of", "read", "shipped"]

KINDS = ("experiments", "models", "methods", "data", "structures")


def extra_roots() -> list[Path]:
    """Folders of `POSTDIFF_PATH`, in order.

    Raises:
        UsageError: a folder does not exist.
    """
    roots = [expanded(part) for part in os.environ.get("POSTDIFF_PATH", "").split(os.pathsep) if part]
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"POSTDIFF_PATH names '{root}', which is not a folder; create it or unset the variable")
    return roots


def place_of(error: BaseException) -> str | None:
    """Where in a file of `POSTDIFF_PATH` an error came up, "FILE, line N"; None if no such file had a part in it."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    own = [f"{name}, line {line}" for name, line in places if is_private(name)]
    return own[-1] if own else None


def is_private(file: str) -> bool:
    """Whether a file stands in a folder of `POSTDIFF_PATH`."""
    try:
        roots = {folder for root in extra_roots() for folder in (root.absolute(), root.resolve())}
    except UsageError:
        return False
    return bool(roots & set(Path(file).parents))


def shipped(file: Path) -> bool:
    """Whether a file came with the package."""
    return file.is_relative_to(_shipped_root())


def _shipped_root() -> Path:
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _config_roots() -> list[Path]:
    return [_shipped_root(), *(root / "configs" for root in extra_roots())]


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
