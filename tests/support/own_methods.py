"""Methods that a test puts into a folder of its own, forgotten when it is over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postdiff import methods

__all__ = ["forgotten"]


@contextmanager
def forgotten(root: Path) -> Iterator[Path]:
    """Afterwards nothing is known of `root`, a folder in `POSTDIFF_PATH`, nor of methods imported meanwhile."""
    known = set(sys.modules)
    yield root
    while str(root / "methods") in methods.__path__:
        methods.__path__.remove(str(root / "methods"))
    for name in set(sys.modules) - known:
        if name.startswith("postdiff.methods."):
            del sys.modules[name]
            delattr(methods, name.rpartition(".")[2])
