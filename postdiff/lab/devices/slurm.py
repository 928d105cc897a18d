"""A SLURM job that is told to make room goes back into the queue. Finished images are all that it need remember."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment

__all__ = ["requeue"]


@contextmanager
def requeue(environment: Any) -> Iterator[None]:
    """Answer SLURM's signal (`#SBATCH --signal=SIGUSR1@90`) while the block runs; nothing for who is not on SLURM.

    Args:
        environment: who starts the processes of the run.
    """
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        yield
        return
    number = environment.requeue_signal or signal.SIGUSR1
    before = signal.signal(number, lambda *_: _requeue(environment.global_rank()))
    try:
        yield
    finally:
        signal.signal(number, before)


def _requeue(rank: int) -> None:
    if rank != 0:
        return
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    try:
        code = subprocess.call(["scontrol", "requeue", name])
    except OSError as error:
        code = error.errno or 1
    message = "goes back into the queue" if code == 0 else f"could not be put back into the queue (code {code})"
    print(f"postdiff: SLURM job {name} {message}; finished images are kept", file=sys.stderr, flush=True)
