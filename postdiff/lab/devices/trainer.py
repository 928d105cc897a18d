"""A Lightning trainer that only predicts and tests: no files of its own, Ctrl-C and SIGTERM passed on."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from postdiff.lab.config.schema import TrainerConfig
from postdiff.lab.devices.placement import several
from postdiff.lab.files import folders

__all__ = ["environment", "make", "passing_interrupts"]

# A device may wait for the others for as long as they draw; that one has died is found out otherwise.
PATIENCE = datetime.timedelta(days=30)


def make(
    device: str, callbacks: Sequence[Callback] = (), logger: Any = None, settings: TrainerConfig | None = None
) -> Trainer:
    """A trainer on one device, or on all that `settings` ask for.

    Args:
        device: "cpu", "cuda" or "cuda:N"; of several devices, the kind.
        callbacks: for instance a progress bar.
        logger: a Lightning logger, or None.
        settings: the devices; None means one.
    """
    on_gpu = device.startswith("cuda")
    shared: dict[str, Any] = {
        "accelerator": "gpu" if on_gpu else "cpu",
        "logger": logger or False,
        "callbacks": [*callbacks, _KeptSignals()],
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,  # no_grad, as the pipelines themselves do; schedulers keep tensors between calls
        "use_distributed_sampler": False,  # it would repeat samples to make all shares equal; the data module deals
    }
    if settings is None or not several(settings):
        # Work is shared out with --shard, so a cluster's variables must not start a distributed run.
        devices: Any = [int(device.partition(":")[2] or 0)] if on_gpu else 1
        return Trainer(devices=devices, plugins=[LightningEnvironment()], **shared)
    return Trainer(
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=DDPStrategy(timeout=PATIENCE),
        plugins=[environment()],
        default_root_dir=folders.outputs(),  # else Lightning would look for checkpoints in the working directory
        **shared,
    )


def environment() -> ClusterEnvironment:
    """Who starts the processes of a run on several devices: torchrun, SLURM's srun, or else Lightning."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=True)
    return LightningEnvironment()


class _KeptSignals(Callback):
    """SIGTERM does what it did before the trainer came, but for SLURM, whose signals Lightning answers."""

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_predict_start(self, trainer: Trainer, *_: Any) -> None:
        self._restore(trainer)

    def on_test_start(self, trainer: Trainer, *_: Any) -> None:
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        on_slurm = isinstance(getattr(trainer.strategy, "cluster_environment", None), SLURMEnvironment)
        if not on_slurm and signal.getsignal(signal.SIGTERM) is not self.before:
            signal.signal(signal.SIGTERM, self.before)


def passing_interrupts(trainer: Trainer, act: Callable[[], Any]) -> Any:
    """Do `act`; Lightning turns Ctrl-C into exit code 1 and deafens the process, which is undone here."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return act()
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
