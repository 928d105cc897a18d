"""The methods, found by file name: `deepcache.py` holds the method `deepcache`, class `DeepCache`.

`from postdiff.methods import DeepCache` finds a class wherever it stands. Folders named in `POSTDIFF_PATH` add their
`methods/*.py` to the package, so a private method is one file with no edit here. Torch is loaded with the first class.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff.catalog import extra_roots, place_of
from postdiff.engine.errors import UsageError, unknown

if TYPE_CHECKING:
    from postdiff.methods.base import Method

__all__ = ["Method", "find", "names", "summary", "twice"]

_PLUMBING = {"base", "options"}
_SHIPPED = Path(__file__).parent


def names() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(_folders().keys() - _PLUMBING)


def twice() -> list[str]:
    """Names that several files bear, ours among them: which of them is meant nobody can tell."""
    return sorted(name for name, folders in _folders().items() if len(folders) > 1)


def _folders() -> dict[str, list[str]]:
    """{name: the folders that have a file for it}."""
    for root in extra_roots():
        folder = str(root / "methods")
        if folder not in __path__:
            __path__.append(folder)
    found: dict[str, list[str]] = {}
    # One by one: of several together the first file of a name alone would be told.
    for folder in {os.path.realpath(folder): folder for folder in __path__}.values():
        for module in pkgutil.iter_modules([folder]):
            found.setdefault(module.name, []).append(folder)
    return found


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: no such method (the nearest name is suggested), two files of that name, or one that is broken.
    """
    from postdiff.methods.base import Method

    file = _file(name)
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (Exception, SystemExit) as error:  # a file of somebody's own may raise anything, or end the process
        raise broken(name, "imported", error, str(file)) from error
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UsageError(f"{module.__file__} must define exactly one subclass of Method; it defines {len(own)}")
    _check(own[0], str(module.__file__))
    return own[0]


def summary(name: str) -> str:
    """The first line of a method's docstring. Shipped methods are read, not imported: loading torch takes seconds.

    Raises:
        UsageError: as `find` does.
    """
    file = _file(name)
    if file.parent != _SHIPPED:
        told = find(name).__doc__
    else:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        [public] = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        told = ast.get_docstring(public)
    return next(iter((told or "").strip().splitlines()), "")


def _file(name: str) -> Path:
    """The one file of a method."""
    files = [Path(folder, f"{name}.py") for folder in _folders().get(name, ())]
    if len(files) > 1:
        raise UsageError(f"method '{name}' is defined twice: {files[0]} and {files[1]}; rename one")
    if name not in names():
        raise unknown("method", name, names())
    if files[0].exists() and not files[0].is_file():
        raise UsageError(f"method '{name}': {files[0]} is no file that can be read; put a Python file in its place")
    return files[0]


def broken(name: str, done: str, error: BaseException, file: str) -> UsageError:
    """The one line for a method that cannot be imported or built, with the place where that fails."""
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    return UsageError(
        f"method '{name}' cannot be {done}, {place_of(error) or file}: {reason}; mend it, --debug shows the traceback"
    )


def _check(cls: type[Method], file: str) -> None:
    """Refuse a class whose options nobody could set."""
    from postdiff.methods.base import Method

    if vars(cls).get("__annotations__") and "__dataclass_fields__" not in vars(cls):
        raise UsageError(f"{file}: {cls.__name__} has options and is no dataclass; write @dataclass above it")
    for option in dataclasses.fields(cls):
        if callable(vars(Method).get(option.name)):
            raise UsageError(f"{file}: option '{option.name}' of {cls.__name__} bears the name of a hook; rename it")


def __getattr__(attribute: str) -> Any:
    if attribute == "Method":
        from postdiff.methods.base import Method

        return Method
    if attribute[:1].isupper():
        for name in names():
            if (cls := _sound(name)) is not None and cls.__name__ == attribute:
                return cls
    raise AttributeError(f"module '{__name__}' has no attribute '{attribute}'")


def __dir__() -> list[str]:
    found = (_sound(name) for name in names())
    return sorted([*__all__, *(cls.__name__ for cls in found if cls is not None)])


def _sound(name: str) -> type[Method] | None:
    """The class, or None if its file is broken: others need not suffer from it."""
    try:
        return find(name)
    except UsageError:
        return None
