"""The command `postdiff`: arguments in, exit code out. What it does is in `postdiff.lab`, imported when needed.

A user's mistake ends in one line on stderr and exit code 2; Ctrl-C in one line and 130.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from postdiff.cli.mistakes import foreseen
from postdiff.cli.parser import parsed

__all__ = ["entry", "main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: command-line words without the program's name; those of the process if omitted.

    Returns:
        0 when what was asked is done, 2 after a mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    # Whoever ends the process politely gets what Ctrl-C gets; signals are the main thread's business alone.
    in_charge = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupted) if in_charge else None
    try:
        given = parsed(words)
        given.command(given)
    except KeyboardInterrupt:
        if debug:
            raise
        return _tell("interrupted; finished rows and pictures are kept, the same command goes on from there", 130)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; nothing is left to tell it.
        sys.stderr.close()
        return 0
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError, MemoryError) as error:
        message = foreseen(error)
        if debug or message is None:
            raise
        return _tell(message, 2)
    finally:
        if in_charge:
            signal.signal(signal.SIGTERM, before)
    return 0


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _interrupted(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _tell(message: str, code: int) -> int:
    print(f"postdiff: error: {message}" if code == 2 else f"postdiff: {message}", file=sys.stderr)
    return code
