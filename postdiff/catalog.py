"""Where named YAML files live: `configs/<kind>/<name>.yaml`.

The shipped files stand in the repository's `configs/` folder and travel inside the wheel as `postdiff/configs`.
Folders named in the environment variable `POSTDIFF_PATH` (separated like `PATH`) are searched as well; each may
hold `configs/<kind>/*.yaml` and `methods/*.py`, so a private method or experiment needs no change here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from postdiff.engine.errors import UsageError, unknown

__all__ = ["KINDS", "extra_roots", "names", "parsed", "path", "read", "shipped"]

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
        UsageError: the file is not UTF-8, not YAML, holds no mapping, or has a key twice.
    """
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"byte 0x{content[error.start]:02x} in line {line}"
        raise UsageError(f"{file} is not UTF-8 ({byte}); save it as UTF-8") from None
    found = parsed(text, str(file))
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no keys; it must be a YAML mapping")
    return found


def parsed(text: str, where: str) -> Any:
    """The value that YAML text stands for.

    Args:
        text: YAML.
        where: what it is, for messages.

    Raises:
        UsageError: it is not YAML, or has a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{where} is not valid YAML{place} ({error.problem}); mend it") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{where} is not valid YAML ({reason}); mend it") from None


class _Loader(yaml.SafeLoader):
    """YAML's own reader drops the first of two equal keys without a word, a whole row of an experiment for instance."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"two keys '{key.value}'", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)
