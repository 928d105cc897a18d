"""The processes of a run on several devices: started with this one's own command, and when one ends, all end.

A SLURM job that is told to make room goes back into the queue; finished images are all that it need remember.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment

from postdiff.lab.config.schema import TrainerConfig

__all__ = ["ProcessWatchdog", "end_with_parent", "requeue", "started"]

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
            main = sys.modules["__main__"]
            program = ["-m", main.__spec__.name] if main.__spec__ else [os.path.abspath(sys.argv[0])]
            command = [sys.executable, *program, *sys.argv[1:]]
            for rank in range(1, settings.devices):
                watch.processes.append(subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank)}))
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


@contextmanager
def requeue(environment: Any) -> Iterator[None]:
    """Answer SLURM's signal (`#SBATCH --signal=SIGUSR1@90`) while the block runs; nothing for who is not on SLURM.

    Args:
        environment: who starts the processes of the run.
    """
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        yield
        return

    def put_back(*_: Any) -> None:
        if environment.global_rank() != 0:
            return
        array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
        name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
        try:
            code = subprocess.call(["scontrol", "requeue", name])
        except OSError as error:
            code = error.errno or 1
        message = "goes back into the queue" if code == 0 else f"could not be put back into the queue (code {code})"
        print(f"postdiff: SLURM job {name} {message}; finished images are kept", file=sys.stderr, flush=True)

    number = environment.requeue_signal or signal.SIGUSR1
    before = signal.signal(number, put_back)
    try:
        yield
    finally:
        signal.signal(number, before)
