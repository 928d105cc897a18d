"""When one process of a run ends, all end: nobody waits for a share that nobody draws."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

__all__ = ["Watch", "end_with_parent"]

INTERVAL = 0.2  # seconds between two looks
INTERRUPTED = (130, -2, -15)  # Ctrl-C reaches every process, SIGTERM perhaps
MISTAKE = 2  # a process that ends so has told why


class Watch:
    """Looks after the processes that this one has started.

    Attributes:
        processes: those looked after; None before `start`.
    """

    def __init__(self) -> None:
        self.processes: Sequence[subprocess.Popen[bytes]] | None = None
        self._stopped = False

    def start(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """Look from now on; when one fails, end the others and this process, with exit code 2."""
        self.processes = processes
        threading.Thread(target=self._look, daemon=True, name="watch").start()

    def stop(self) -> None:
        """Look no longer, and end what still runs but for a process that is just ending by itself."""
        self._stopped = True
        failed = sys.exc_info()[0] is not None
        for process in self.processes or ():
            try:
                process.wait(timeout=0 if failed else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _look(self) -> None:
        assert self.processes is not None
        while not self._stopped:
            codes = [process.poll() for process in self.processes]
            failed = [place for place, code in enumerate(codes) if code]
            if failed and not self._stopped:
                if codes[failed[0]] in INTERRUPTED:
                    time.sleep(5)  # this process is being interrupted as well and tells it
                if not self._stopped:
                    self._end(failed[0], codes[failed[0]])
                return
            if not any(code is None for code in codes):
                return
            time.sleep(INTERVAL)

    def _end(self, place: int, code: int | None) -> None:
        assert self.processes is not None
        for process in self.processes:
            process.kill()
        if code != MISTAKE:
            print(
                f"\npostdiff: error: the process of device {place + 2} of {len(self.processes) + 1} ended with code "
                f"{code}; finished pictures are kept, the same command goes on from there",
                file=sys.stderr,
                flush=True,
            )
        os._exit(MISTAKE)  # the main thread may be waiting for the process that is gone


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(INTERVAL)
        os._exit(MISTAKE)

    threading.Thread(target=look, daemon=True, name="watch").start()
