"""Several processes that work as one run, started by Lightning Fabric, torchrun or SLURM.

Every process runs the whole program. Rank 0 alone prints and writes records; the others generate and measure their
share. Without `launch` there is one process, and everything here is trivial.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as torch_distributed
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.strategies import DDPStrategy

from postdiff.engine.errors import UsageError
from postdiff.lab.config.schema import TrainerConfig
from postdiff.lab.data.samples import Shard
from postdiff.lab.devices import processes

__all__ = ["all_sums", "barrier", "broadcast", "cluster", "gather", "is_rank_zero", "launch", "local_device", "share"]

T = TypeVar("T")
GRACE = 3.0  # seconds in which the process that knows more may speak first
FOUND = 30.0  # seconds for a process that has failed to come to its end, and be found there
# A device may wait for the others for as long as they generate; that one has died is found out otherwise.
PATIENCE = datetime.timedelta(days=30)


@contextmanager
def launch(settings: TrainerConfig, kind: str) -> Iterator[None]:
    """Start the processes of a run, or meet those that torchrun or SLURM started; nothing for a single device.

    When the block ends well rank 0 goes on alone, and the others end.

    Args:
        settings: how many.
        kind: "cpu" or "cuda".

    Raises:
        UsageError: another process has ended, or this one has met a user's mistake alone.
    """
    if settings.devices * settings.num_nodes == 1:
        yield
        return
    starter = cluster()
    with processes.started(settings, starter) as watch:
        grace = FOUND if watch.processes else GRACE
        try:
            Fabric(
                accelerator="gpu" if kind.startswith("cuda") else "cpu",
                devices=settings.devices,
                num_nodes=settings.num_nodes,
                strategy=DDPStrategy(timeout=PATIENCE),
                plugins=[starter],
            ).launch()
            if not is_rank_zero() and not watch.processes and isinstance(starter, LightningEnvironment):
                processes.end_with_parent()
            with processes.requeue(starter):
                yield
            if not is_rank_zero():
                sys.exit(0)  # what is left to do, rank 0 does alone
        except KeyboardInterrupt:
            if not is_rank_zero():
                os._exit(130)  # rank 0 reports it
            raise
        except _Lost:
            time.sleep(grace)  # whoever watches the processes knows which one it was, and ends this one
            raise
        except (UsageError, OSError) as error:
            if is_rank_zero():
                raise
            time.sleep(GRACE)  # a mistake that all meet is reported by rank 0, which ends this process
            raise UsageError(f"device {share().number} of {share().of}: {error}") from error
        except RuntimeError as error:
            # gloo, unlike the others, has no error class of its own.
            if not isinstance(error, torch_distributed.DistError) and "gloo" not in str(error):
                raise
            time.sleep(grace)
            raise _Lost from error
        finally:
            if share().of > 1:
                torch_distributed.destroy_process_group()


def cluster() -> ClusterEnvironment:
    """Who starts the processes of a run on several devices: torchrun, SLURM's srun, or else this program."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=True)
    return LightningEnvironment()


def is_rank_zero() -> bool:
    """Whether this process prints and writes records."""
    return share().number == 1


def share() -> Shard:
    """The part of the work that is this process's, of how many."""
    if not (torch_distributed.is_available() and torch_distributed.is_initialized()):
        return Shard(1, 1)
    return Shard(torch_distributed.get_rank() + 1, torch_distributed.get_world_size())


def local_device(name: str) -> str:
    """The device of this process: "cuda" is the GPU of its own number."""
    return f"cuda:{cluster().local_rank()}" if name == "cuda" and share().of > 1 else name


def broadcast(decide: Callable[[], T]) -> T:
    """What rank 0 decides, known to all.

    Raises:
        UsageError: another process has ended.
    """
    if share().of == 1:
        return decide()
    found = [decide() if is_rank_zero() else None]
    _collective(lambda: torch_distributed.broadcast_object_list(found, src=0, device=_device()))
    return found[0]  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """The values of all processes, in order of rank; empty but on rank 0.

    Raises:
        UsageError: another process has ended.
    """
    if share().of == 1:
        return [value]
    found: list[Any] | None = [None] * share().of if is_rank_zero() else None
    _collective(lambda: torch_distributed.gather_object(value, found, dst=0))
    return found or []


def all_sums(numbers: dict[str, int]) -> dict[str, int]:
    """Sums over all processes, known to all; every process must give the same names.

    Raises:
        UsageError: another process has ended.
    """
    if share().of == 1 or not numbers:
        return numbers
    sums = torch.tensor(list(numbers.values()), dtype=torch.int64, device=_device())
    _collective(lambda: torch_distributed.all_reduce(sums))
    return dict(zip(numbers, sums.tolist(), strict=True))


def barrier() -> None:
    """Wait until every process has come here.

    Raises:
        UsageError: another process has ended.
    """
    all_sums({"here": 1})


class _Lost(UsageError):
    """Another process is gone."""

    def __init__(self) -> None:
        super().__init__(
            "another process of this run has ended; finished images are kept, the same command goes on from there"
        )


def _device() -> torch.device:
    on_gpu = torch_distributed.get_backend() == "nccl"
    return torch.device("cuda", cluster().local_rank()) if on_gpu else torch.device("cpu")


def _collective(act: Callable[[], Any]) -> None:
    try:
        act()
    except RuntimeError as error:
        raise _Lost from error
