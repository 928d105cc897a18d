"""`python child.py DEADLINE bench EXPERIMENT ...`: the command of postdiff, told how long it has once all is loaded.

DEADLINE is on the clock of `time.time`. Loading torch and the rest takes seconds that nobody can foretell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

END = 1.0  # seconds to write records and leave


def main(words: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    deadline, *command = words
    from postdiff.cli import main

    seconds = max(float(deadline) - time.time() - END, 0.1)
    return main([*command, f"bench.seconds={seconds:.1f}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
