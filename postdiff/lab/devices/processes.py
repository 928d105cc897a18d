"""The processes of a run on several devices: started with this one's own command, and when one ends, all end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning.fabric.plugins.environments import ClusterEnvironment

from postdiff.lab.config.schema import TrainerConfig

__all__ = ["ProcessWatchdog", "end_with_parent", "started"]

INTERVAL = 0.2  # seconds between two looks
INTERRUPTED = (130, -2, -15)  # Ctrl-C reaches every process, SIGTERM perhaps
MISTAKE = 2  # a process that ends so has reported why
VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def started(settings: TrainerConfig, cluster: ClusterEnvironment) -> Iterator[ProcessWatchdog]:
    """Start one process for each further device of this machine; none if torchrun, SLURM or this function did already.

    Args:
        settings: how many.
        cluster: who starts processes.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    watch = ProcessWatchdog()
    try:
        if not cluster.creates_processes_externally:
            os.environ.update(
                LOCAL_RANK="0",
                NODE_RANK=str(cluster.node_rank()),
                WORLD_SIZE=str(settings.devices * settings.num_nodes),
                MASTER_ADDR=cluster.main_address,
                MASTER_PORT=str(cluster.main_port),
            )
            for rank in range(1, settings.devices):
                watch.processes.append(subprocess.Popen(_command(), env={**os.environ, "LOCAL_RANK": str(rank)}))
            watch.start()
        yield watch
    finally:
        watch.stop()
        for name, value in before.items():  # the next run of this process starts its own
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class ProcessWatchdog:
    """Looks after the processes that this one has started.

    Attributes:
        processes: those looked after; empty if others have started them.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def start(self) -> None:
        """Look from now on; when one fails, end the others and this process, with exit code 2."""
        threading.Thread(target=self._look, daemon=True, name="watch").start()

    def stop(self) -> None:
        """Look no longer, and end what still runs but for a process that is just ending by itself."""
        self._stopped = True
        failed = sys.exc_info()[0] is not None
        for process in self.processes:
            try:
                process.wait(timeout=0 if failed else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _look(self) -> None:
        while not self._stopped:
            codes = [process.poll() for process in self.processes]
            failed = [place for place, code in enumerate(codes) if code]
            if failed and not self._stopped:
                if codes[failed[0]] in INTERRUPTED:
                    time.sleep(5)  # this process is being interrupted as well and reports it
                if not self._stopped:
                    self._end(failed[0], codes[failed[0]])
                return
            if not any(code is None for code in codes):
                return
            time.sleep(INTERVAL)

    def _end(self, place: int, code: int | None) -> None:
        for process in self.processes:
            process.kill()
        if code != MISTAKE:
            print(
                f"\npostdiff: error: the process of device {place + 2} of {len(self.processes) + 1} ended with code "
                f"{code}; finished images are kept, the same command goes on from there",
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


def _command() -> Sequence[str]:
    """The command of this process, whether it is a module or a script."""
    main = sys.modules["__main__"]
    module = ["-m", main.__spec__.name] if main.__spec__ else [os.path.abspath(sys.argv[0])]
    return [sys.executable, *module, *sys.argv[1:]]
