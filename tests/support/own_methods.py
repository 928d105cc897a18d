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
        if kind and kind[0] in plugins.KINDS and root in Path(getattr(module, "__file__", None) or "").parents:
            package, _, own = name.rpartition(".")
            vars(sys.modules[package]).pop(own, None)
            del sys.modules[name]
