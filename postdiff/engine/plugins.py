"""What people add without an edit here: `methods/NAME.py` in a folder of `POSTDIFF_PATH`, and so for every kind.

A file is found by its name, as the module `postdiff.KIND.NAME`. It defines one class (of families one row) of that kind
and may import what stands beside it. A method may also be a folder, `methods/NAME/method.py`. A broken file is told by
file and line, and nothing else suffers from it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Collection
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.values import expanded

__all__ = ["KINDS", "broken", "files", "find", "folders", "is_private", "one_file", "own", "place_of", "roots"]

# What a message calls one of each kind. Methods and metrics are packages of ours, others stand in tables.
KINDS = {
    "methods": "method",
    "metrics": "metric",
    "schedulers": "scheduler",
    "conditions": "condition",
    "families": "family",
    "loggers": "logger",
}
IN_A_FOLDER = {"methods": "method.py"}  # the file of a kind, where NAME is a folder
_PACKAGE = Path(__file__).parents[1]


def roots() -> list[Path]:
    """Folders of `POSTDIFF_PATH`, in order.

    Raises:
        UsageError: a folder does not exist.
    """
    found = [expanded(part) for part in os.environ.get("POSTDIFF_PATH", "").split(os.pathsep) if part]
    for root in found:
        if not root.is_dir():
            raise UsageError(f"POSTDIFF_PATH names '{root}', which is not a folder; create it or unset the variable")
    return found


def folders(kind: str) -> list[Path]:
    """Where files of a kind stand: our package of that kind, if there is one, and all folders of one's own."""
    found = [_PACKAGE / kind, *(root / kind for root in roots())]
    return list({os.path.realpath(folder): folder for folder in found}.values())


def files(kind: str) -> dict[str, list[Path]]:
    """{name: the files of that name} in all these folders."""
    found: dict[str, list[Path]] = {}
    # One by one: of several together the first file of a name alone would be told.
    for folder in folders(kind):
        inside = (
            {file.parent.name: file for file in folder.glob(f"*/{IN_A_FOLDER[kind]}")} if kind in IN_A_FOLDER else {}
        )
        for module in pkgutil.iter_modules([str(folder)]):
            if not (module.ispkg and module.name in inside):
                found.setdefault(module.name, []).append(folder / f"{module.name}.py")
        for name, file in inside.items():
            found.setdefault(name, []).append(file)
    return found


def own(kind: str) -> list[str]:
    """Names that have a file in a folder of `POSTDIFF_PATH`, sorted."""
    return sorted(name for name, places in files(kind).items() if not places[-1].is_relative_to(_PACKAGE / kind))


def one_file(kind: str, name: str, shipped: Collection[str] = ()) -> Path | None:
    """The file behind a name; None for one of `shipped`, the names in a table of ours.

    Raises:
        UsageError: no such name (the nearest one is suggested), two of them, or something that is no file.
    """
    called, known, private = f"{KINDS[kind]} '{name}'", files(kind), own(kind)
    if name in shipped and name not in private:
        return None
    # Where a table has the names, those of our modules are none.
    if name not in (listed := {*shipped, *private} if shipped else {*known}):
        raise unknown(KINDS[kind], name, listed)
    places = [*(["the package's own"] if name in shipped and len(known[name]) == 1 else []), *map(str, known[name])]
    if len(places) > 1:
        raise UsageError(f"{called} is defined twice: {places[0]} and {places[1]}; rename one")
    [file] = known[name]
    if file.exists() and not file.is_file():
        raise UsageError(f"{called}: {file} is no file that can be read; put a Python file in its place")
    return file


def find(kind: str, name: str, base: type, shipped: Collection[str] = ()) -> Any:
    """What the file of a name defines: the one subclass of `base`, or of families the one instance of it.

    Args:
        kind: one of `KINDS`.
        name: of the file.
        base: what one of that kind is.
        shipped: names in a table of ours.

    Returns:
        None for a name of `shipped`.

    Raises:
        UsageError: as `one_file` does; or the file is broken, or defines none, several, or one whose options nobody
            could set.
    """
    if (file := one_file(kind, name, shipped)) is None:
        return None
    if (package := sys.modules.get(f"postdiff.{kind}")) is None:
        if (_PACKAGE / kind).is_dir():
            package = importlib.import_module(f"postdiff.{kind}")
        else:
            package = sys.modules[f"postdiff.{kind}"] = ModuleType(f"postdiff.{kind}")
    package.__path__ = [str(folder / kind) for folder in (_PACKAGE, *roots())]
    inside = f".{file.stem}" if file.parent.name == name else ""
    try:
        module = importlib.import_module(f"postdiff.{kind}.{name}{inside}")
    except (Exception, SystemExit) as error:  # a file of somebody's own may raise anything, or end the process
        raise broken(kind, name, "imported", error, str(file)) from error
    found: list[Any] = []
    for value in vars(module).values():
        if kind == "families":
            found += [value] if isinstance(value, base) else []
        elif isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__:
            found.append(value)
    if len(found) != 1:
        what = "instance" if kind == "families" else "subclass"
        raise UsageError(f"{file} must define exactly one {what} of {base.__name__}; it defines {len(found)}")
    [one] = found
    if is_dataclass(base) and "__annotations__" in vars(one) and "__dataclass_fields__" not in vars(one):
        raise UsageError(f"{file}: {one.__name__} has options and is no dataclass; write @dataclass above it")
    return one


def broken(kind: str, name: str, done: str, error: BaseException, file: str) -> UsageError:
    """The one line for what cannot be imported or built, with the place where that fails."""
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    return UsageError(
        f"{KINDS[kind]} '{name}' cannot be {done}, {place_of(error) or file}: {reason}; mend it, "
        "--debug shows the traceback"
    )


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
        private = {folder for root in roots() for folder in (root.absolute(), root.resolve())}
    except UsageError:
        return False
    return bool(private & set(Path(file).parents))
