"""`postdiff` in a process of its own that begins as a copy of this one: it need not import everything again.

It can be killed, it keeps its own environment, streams, signals and devices, and nothing that it does comes back. What
a fresh interpreter does is proved by the tests that start one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from postdiff import cli
from postdiff.lab.devices import processes


class Fork:
    """The command `postdiff` with `words`, as `subprocess.Popen` has it.

    Args:
        words: of the command line.
        environment: all variables; those of this process if omitted.
        folder: where what it prints goes, in a session of its own; None: where this process prints.
        first: done in the new process before the command.
    """

    def __init__(
        self,
        words: list[str],
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
        first: Callable[[], object] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.folder = folder
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            self.first = first
            self._be(words, dict(os.environ) if environment is None else environment)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (300 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() >= end:
                raise subprocess.TimeoutExpired("postdiff", timeout or 300)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Stdout and stderr of a process with a folder, once it has ended; one that does not end is killed."""
        try:
            self.wait(timeout)
        finally:
            self.kill()
        assert self.folder is not None
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return out, err

    def left(self) -> list[int]:
        """Processes of its session that still run: of its devices, for instance."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(") ")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _be(self, words: list[str], environment: dict[str, str]) -> None:
        """The new process; never comes back."""
        code = 1
        try:
            os.environ.clear()
            os.environ.update(environment)
            if self.folder is not None:
                os.setsid()
                for number, name in ((1, "stdout"), (2, "stderr")):
                    file = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
                    os.dup2(file, number)
                sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
            # The other devices are started with these words: here they are copies as well.
            sys.argv = ["postdiff", *words]
            processes.subprocess = SimpleNamespace(
                Popen=lambda _, env: Fork(words, env), TimeoutExpired=subprocess.TimeoutExpired
            )
            if self.first is not None:
                self.first()
            code = cli.main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
