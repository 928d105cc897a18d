"""What a test puts into a folder of its own, forgotten when it is over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postdiff.engine import plugins

__all__ = ["forgotten"]


@contextmanager
def forgotten(root: Path) -> Iterator[Path]:
    """Afterwards nothing is known of `root`, a folder in `POSTDIFF_PATH`."""
    yield root
    for name, module in list(sys.modules.items()):
        kind = name.split(".")[1:2]
        # A folder without `__init__.py` is in no file of its own.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
        if kind and kind[0] in plugins.KINDS and root in Path(place).parents:
            package, _, own = name.rpartition(".")
            if package in sys.modules:
                vars(sys.modules[package]).pop(own, None)
            del sys.modules[name]
