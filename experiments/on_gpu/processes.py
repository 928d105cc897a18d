"""A stage's process: its log, its time limit, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "run"]

ROOT = Path(__file__).parents[2]

EVERY = 15.0  # seconds between two signs of life
# After its time is up a process is asked to end, and later made to: shares of its time, and seconds at most.
ASKED, MADE, MOST = 0.02, 0.05, 3.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code; below 0 if a signal ended it.
        seconds: how long it ran.
        stopped: whether its time was up.
        last: the last line of its log.
    """

    code: int
    seconds: float
    stopped: bool
    last: str


def run(
    command: Sequence[str],
    seconds: float,
    log: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    meanwhile: Callable[[], object] = lambda: None,
    output: Path | None = None,
) -> Ended:
    """Run `python command...` for so many seconds at most.

    Args:
        command: what follows `python`.
        seconds: when they are gone the process is interrupted, as by Ctrl-C, and ended soon after.
        log: takes stderr, and stdout too unless `output` does.
        environment: of the process.
        say: told every now and then how far it is.
        meanwhile: done once while it runs.
        output: takes stdout.
    """
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(log.open("w"))
        out = written if output is None else stack.enter_context(output.open("w"))
        process = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=written, stdin=subprocess.DEVNULL, env=dict(environment),
            start_new_session=True, cwd=ROOT,
        )  # fmt: skip
        stack.callback(_end, process)
        meanwhile()
        stopped = _wait(process, begin, seconds, log, say)
    return Ended(process.wait(), time.monotonic() - begin, stopped, _last(log))


def _wait(
    process: subprocess.Popen[bytes], begin: float, seconds: float, log: Path, say: Callable[[str], None]
) -> bool:
    """Wait for its end; whether it was asked to."""
    asked, message = False, begin
    while process.poll() is None:
        gone = time.monotonic() - begin
        if not asked and gone > seconds + min(ASKED * seconds, MOST):
            asked = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        if gone > seconds + min((ASKED + MADE) * seconds, 2 * MOST):
            return True
        if gone - (message - begin) > EVERY:
            message = begin + gone
            say(f"{gone:.0f} of {seconds:.0f} s: {_last(log)}")
        time.sleep(0.05)
    return asked


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it running, whoever ends us."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        lines = stream.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
