"""Which of our code decides an image: a stack's own modules, the driver, and all that these import of ours.

So a method that is added or edited leaves other methods' images where they are. Comments, docstrings and layout
decide nothing, and nor do they here.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import postdiff
from postdiff import methods
from postdiff.engine import plugins
from postdiff.engine.errors import UsageError

__all__ = ["added", "code_hash"]

PACKAGE = Path(postdiff.__file__).parent
DRIVER = "postdiff.engine.driver"  # every row with methods goes through it
MUTE = {"postdiff.engine.errors", "postdiff.engine.plugins", "postdiff.catalog"}  # words for people, where files are
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def code_hash(classes: frozenset[type], private: bool = False) -> str:
    """16 hexadecimal digits over the modules behind the classes of a stack, read once a process.

    Args:
        classes: of the methods. Those of private methods, in folders of `POSTDIFF_PATH`, may import what stands beside
            them, which counts as well.
        private: whether files in folders of `POSTDIFF_PATH` alone count, as for metrics.
    """
    families = (f"postdiff.families.{name}" for name in plugins.own("families"))
    driving = [] if private else [DRIVER, *families]
    return _hash([*driving, *(parent.__module__ for cls in classes for parent in cls.__mro__)], private)


def added(kind: str, names: Iterable[str | None]) -> dict[str, str]:
    """What schedulers or conditions of a folder of `POSTDIFF_PATH` add to an identity; others add nothing.

    Returns:
        {kind and name: 16 hexadecimal digits over its file and what that imports from beside it}.
    """
    own = plugins.own(kind)
    return {f"{kind}/{name}": _hash([f"postdiff.{kind}.{name}"]) for name in names if name in own}


def _hash(waiting: list[str], private: bool = False) -> str:
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in found or name in MUTE or (file := _file(name)) is None:
            continue
        if private and not plugins.is_private(str(file)):
            continue
        tree, found[name] = _read(file)
        waiting += _imported(tree, name, file)
    lines = "".join(f"{name} {found[name]}\n" for name in sorted(found))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _file(name: str) -> Path | None:
    """The file of a module of ours, or of one that stands beside a private method; None for all others."""
    parts = name.split(".")
    if parts[0] == "postdiff":
        places = [PACKAGE.joinpath(*parts[1:])]
        if parts[1:2] and parts[1] in plugins.KINDS and parts[2:]:
            places += [root.joinpath(*parts[1:]) for root in plugins.roots()]
    else:
        places = [root.joinpath("methods", *parts) for root in plugins.roots()]
    files = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def _imported(tree: ast.Module, name: str, file: Path) -> Iterator[str]:
    """Names of all that a module imports, at its top or inside a function."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            source = ".".join(part for part in (base if node.level else "", node.module) if part)
            for alias in node.names:
                yield from _origin(source, alias.name)


def _origin(source: str, name: str) -> Iterator[str]:
    """The modules behind `from source import name`."""
    if _file(f"{source}.{name}") is not None:
        yield f"{source}.{name}"
    elif source == methods.__name__:
        try:
            yield getattr(methods, name).__module__  # a class, wherever it stands
        except (AttributeError, UsageError):
            yield source
    else:
        yield source


@functools.cache
def _read(file: Path) -> tuple[ast.Module, str]:
    """Syntax tree of a file, and the hash of what it does."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{file} is not valid Python ({error}); mend it") from None
    return tree, hashlib.sha256(repr(_message(tree)).encode()).hexdigest()


def _message(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings; equal from one version of Python to the next."""
    if isinstance(node, list):
        return tuple(map(_message, node))
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    # What is empty is left out: newer versions know fields that older ones do not.
    return (type(node).__name__, *((key, _message(value)) for key, value in fields.items() if value not in (None, [])))
