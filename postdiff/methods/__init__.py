"""The methods, found by file name: `deepcache.py` holds the method `deepcache`, class `DeepCache`.

`from postdiff.methods import DeepCache` finds a class wherever it stands. Folders named in `POSTDIFF_PATH` add their
`methods/*.py` to the package, so a private method is one file with no edit here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from postdiff.catalog import extra_roots
from postdiff.engine.errors import UsageError, unknown
from postdiff.methods.base import Method

__all__ = ["Method", "find", "names"]

_PLUMBING = {"base", "options"}


def names() -> list[str]:
    """Names of all methods, sorted."""
    for root in extra_roots():
        folder = str(root / "methods")
        if folder not in __path__:
            __path__.append(folder)
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name not in _PLUMBING)


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: no such method (the nearest name is suggested), or its file is broken.
    """
    if name not in names():
        raise unknown("method", name, names())
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"method '{name}' cannot be imported: {error}") from error
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UsageError(f"{module.__file__} must define exactly one subclass of Method; it defines {len(own)}")
    return own[0]


def __getattr__(attribute: str) -> Any:
    if attribute[:1].isupper():
        for name in names():
            if (cls := find(name)).__name__ == attribute:
                return cls
    raise AttributeError(f"module '{__name__}' has no attribute '{attribute}'")


def __dir__() -> list[str]:
    return sorted([*__all__, *(find(name).__name__ for name in names())])
