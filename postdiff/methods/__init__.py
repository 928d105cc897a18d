"""The methods, found by the names of their folders: `deepcache/method.py` holds the method `deepcache`.

`from postdiff.methods import DeepCache` finds a class wherever it stands, also in a folder of one's own
(`engine.plugins`), where a method may be a single file. Torch is loaded with the first class.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, unknown

if TYPE_CHECKING:
    from postdiff.methods.base import Method

__all__ = ["Method", "find", "name_of", "names", "summary", "twice"]

_PLUMBING = {"base", "cache", "formulas", "options", "solver_cache"}
_SHIPPED = Path(__file__).parent


def names() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(plugins.files("methods").keys() - _PLUMBING)


def twice() -> list[str]:
    """Names that several files bear, ours among them: which of them is meant nobody can tell."""
    return sorted(name for name, files in plugins.files("methods").items() if len(files) > 1)


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: no such method (the nearest name is suggested), two files of that name, or one that is broken.
    """
    from postdiff.methods.base import Method

    if name in _PLUMBING and name not in twice():
        raise unknown("method", name, names())
    cls: type[Method] = plugins.find("methods", name, Method)
    for option in dataclasses.fields(cls):
        if callable(vars(Method).get(option.name)):
            file = inspect.getfile(cls)
            raise UsageError(f"{file}: option '{option.name}' of {cls.__name__} bears the name of a hook; rename it")
    return cls


def name_of(cls: type) -> str:
    """The name behind a class: of its folder, or of its file where it has no folder."""
    return cls.__module__.removesuffix(".method").rpartition(".")[2]


def summary(name: str) -> str:
    """The first line of a method's docstring. Shipped methods are read, not imported: loading torch takes seconds.

    Raises:
        UsageError: as `find` does.
    """
    file = Path(str(plugins.one_file("methods", name)))
    if not file.is_relative_to(_SHIPPED):
        doc = find(name).__doc__
    else:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        [public] = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        doc = ast.get_docstring(public)
    return next(iter((doc or "").strip().splitlines()), "")


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
