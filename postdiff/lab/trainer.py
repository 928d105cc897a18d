"""A Lightning trainer that only predicts and tests: one device, no files of its own, Ctrl-C passed on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

__all__ = ["make", "passing_interrupts"]


def make(device: str, callbacks: Sequence[Callback] = (), logger: Any = None) -> Trainer:
    """A trainer on one device.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        callbacks: for instance a progress bar.
        logger: a Lightning logger, or None.
    """
    on_gpu = device.startswith("cuda")
    return Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=[int(device.partition(":")[2] or 0)] if on_gpu else 1,
        logger=logger or False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,  # no_grad, as the pipelines themselves do; schedulers keep tensors between calls
        # Work is shared out with --shard, so a cluster's variables must not start a distributed run.
        plugins=[LightningEnvironment()],
    )


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
