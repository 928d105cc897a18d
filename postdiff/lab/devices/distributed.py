"""Several processes that work as one run: who is first, what all know, and how they end together.

Every process runs the whole program. The first one alone prints, and writes records; the others draw and measure their
share. Without `crew` there is one process, and everything here is trivial.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as torch_distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.utils.data import DataLoader

from postdiff.engine.errors import UsageError
from postdiff.engine.intercept import intercept
from postdiff.lab.config.schema import TrainerConfig
from postdiff.lab.devices import requeue, trainer, watch
from postdiff.lab.devices.placement import several
from postdiff.lab.samples import Shard

__all__ = ["crew", "device", "first", "from_first", "gathered", "joined", "placed"]

T = TypeVar("T")
GRACE = 3.0  # seconds in which the process that knows more may speak first
PATIENCE = 30.0  # seconds for a process that has failed to come to its end, and be found there
VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def crew(settings: TrainerConfig, kind: str) -> Iterator[None]:
    """Start the processes of a run, or meet those that torchrun or SLURM started; nothing for a single device.

    When the block ends well the first process goes on alone, and the others end.

    Args:
        settings: how many.
        kind: "cpu" or "cuda".

    Raises:
        UsageError: another process has ended, or this one has met a user's mistake alone.
    """
    if not several(settings):
        yield
        return
    before = {name: os.environ.get(name) for name in VARIABLES}
    own = watch.Watch()
    try:
        with intercept(subprocess_script, "_launch_process_observer", lambda _, processes: own.start(processes)):
            start = trainer.make(kind, settings=settings)
            trainer.passing_interrupts(start, lambda: start.predict(_Idle(), DataLoader([0])))  # type: ignore[arg-type]
        if not first() and own.processes is None and isinstance(trainer.environment(), LightningEnvironment):
            watch.end_with_parent()
        with requeue.answering(trainer.environment()):
            yield
        if not first():
            sys.exit(0)  # what is left to do, the first one does alone
    except KeyboardInterrupt:
        if not first():
            os._exit(130)  # the first one tells
        raise
    except _Lost:
        # Whoever watches the processes knows which one it was, and ends this one.
        time.sleep(GRACE if own.processes is None else PATIENCE)
        raise
    except (UsageError, OSError) as error:
        if first():
            raise
        time.sleep(GRACE)  # a mistake that all meet is told by the first, which ends this process
        raise UsageError(f"device {device().number} of {device().of}: {error}") from error
    except RuntimeError as error:
        # gloo, unlike the others, has no error class of its own.
        if not isinstance(error, torch_distributed.DistError) and "gloo" not in str(error):
            raise
        time.sleep(GRACE if own.processes is None else PATIENCE)
        raise _lost() from error
    finally:
        own.stop()
        _leave(before)


def first() -> bool:
    """Whether this process prints and writes records."""
    return device().number == 1


def device() -> Shard:
    """Which device this process drives, of how many."""
    if not _together():
        return Shard(1, 1)
    return Shard(torch_distributed.get_rank() + 1, torch_distributed.get_world_size())


def placed(name: str) -> str:
    """The device of this process: "cuda" is the GPU of its own number."""
    if name == "cuda" and _together():
        return f"cuda:{trainer.environment().local_rank()}"
    return name


def from_first(decide: Callable[[], T]) -> T:
    """What the first process decides, told to all.

    Raises:
        UsageError: another process has ended.
    """
    if not _together():
        return decide()
    told = [decide() if first() else None]
    _collective(lambda: torch_distributed.broadcast_object_list(told, src=0, device=_device()))
    return told[0]  # type: ignore[return-value]


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order; empty but for the first.

    Raises:
        UsageError: another process has ended.
    """
    if not _together():
        return [value]
    found: list[Any] | None = [None] * device().of if first() else None
    _collective(lambda: torch_distributed.gather_object(value, found, dst=0))
    return found or []


def joined(numbers: dict[str, int]) -> dict[str, int]:
    """Sums over all processes, known to all; every process must give the same names.

    Raises:
        UsageError: another process has ended.
    """
    if not _together() or not numbers:
        return numbers
    sums = torch.tensor(list(numbers.values()), dtype=torch.int64, device=_device())
    _collective(lambda: torch_distributed.all_reduce(sums))
    return dict(zip(numbers, sums.tolist(), strict=True))


class _Lost(UsageError):
    """Another process is gone."""


class _Idle(LightningModule):
    """Does nothing; predicting with it starts the processes."""

    def predict_step(self, batch: Any, batch_idx: int = 0) -> int:
        return 0


def _together() -> bool:
    return torch_distributed.is_available() and torch_distributed.is_initialized()


def _device() -> torch.device:
    on_gpu = torch_distributed.get_backend() == "nccl"
    return torch.device("cuda", trainer.environment().local_rank()) if on_gpu else torch.device("cpu")


def _collective(act: Callable[[], Any]) -> None:
    try:
        act()
    except RuntimeError as error:
        raise _lost() from error


def _lost() -> _Lost:
    return _Lost(
        "another process of this run has ended; finished pictures are kept, the same command goes on from there"
    )


def _leave(before: dict[str, str | None]) -> None:
    """As it was before: the next run of this process starts its own."""
    if _together():
        torch_distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
