"""Every figure and table anew: `python paper_figures/all.py`.

A script whose records are missing is told in one line; the others run all the same, and the exit code is then 2.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from postdiff.engine.errors import UsageError

SHARED = ("all", "features", "frontier_table", "measured", "style")


def names() -> list[str]:
    """Every script of this folder, by name; a new one needs no entry."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in SHARED)


def main() -> int:
    """Run them in turn; gives the exit code."""
    code = 0
    for name in names():
        try:
            importlib.import_module(name).main()
        except UsageError as error:
            print(f"postdiff: error: {name}: {' '.join(str(error).split())}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
