"""The command `postdiff`: arguments in, exit code out. What it does is in `postdiff.lab`, imported when needed.

A user's mistake ends in one line on stderr and exit code 2; Ctrl-C in one line and 130.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from postdiff.cli.mistakes import foreseen, line, stopped
from postdiff.cli.parser import parsed

__all__ = ["entry", "main"]

INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: command-line words without the program's name; those of the process if omitted.

    Returns:
        0 when what was asked is done, 1 when no plan keeps to its budget, 2 after a mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    # Whoever ends the process politely gets what Ctrl-C gets; signals are the main thread's business alone.
    in_charge = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if in_charge:
        signal.signal(signal.SIGTERM, _interrupted)
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is spelt out
        given = parsed(words)
        code: int = given.command.act(given) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        if debug:
            raise
        if in_charge:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not break into the telling
        return _report(
            "interrupted; finished rows and images are kept, the same command goes on from there", INTERRUPTED
        )
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; nothing is left to tell it.
        sys.stderr.close()
        return 0
    except (Exception, SystemExit) as error:
        message = stopped(error) if isinstance(error, SystemExit) else foreseen(error)
        if debug or message is None:
            raise
        return _report(message, 2)
    finally:
        for number, handler in before.items():
            if in_charge and handler is not None:
                signal.signal(number, handler)
    return code


def entry() -> NoReturn:
    """The console script."""
    _open_what_is_closed()
    code = main()
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _interrupted(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _report(message: str, code: int) -> int:
    print(line("postdiff: error: " if code == 2 else "postdiff: ", message), file=sys.stderr)
    return code


def _open_what_is_closed() -> None:
    """Started with `2>&-`, the next file that is opened would be stderr, and notices would be written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
