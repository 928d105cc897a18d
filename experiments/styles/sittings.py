"""Training over several sittings: batches by step, a clock for one sitting, checkpoints, an average of the weights.

A run that is stopped and resumed is the same run, bit by bit on a CPU: a batch and its noise depend on the step alone,
and no rate depends on the clock or on how long a sitting is. The learning rate rises and stays; the average of the
weights does what lowering it would do.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.utils.data import DataLoader, IterableDataset


class Steps(IterableDataset):
    """Endless batches, the batch of a step made by `make(step)`."""

    def __init__(self, make: Callable[[int], dict[str, Any]], first: int) -> None:
        self.make, self.first = make, first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self.first
        while True:
            yield {**self.make(step), "step": step}
            step += 1


class StepData(L.LightningDataModule):
    """Batches from the step that the training is at."""

    def __init__(self, make: Callable[[int], dict[str, Any]]) -> None:
        super().__init__()
        self.make = make

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        return DataLoader(Steps(self.make, self.trainer.global_step), batch_size=None)


class Average(WeightAveraging):
    """An exponential moving average whose window grows with the run: decay min(limit, (1 + n) / (10 + n))."""

    def __init__(self, limit: float = 0.9998) -> None:
        def update(averaged: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
            decay = min(limit, (1 + int(count)) / (10 + int(count)))
            torch._foreach_lerp_(averaged, current, 1 - decay)

        super().__init__(use_buffers=False, multi_avg_fn=torch.no_grad()(update))


class Sitting(L.Callback):
    """Warm up, report, keep a checkpoint, and stop in time.

    Must come after `Average` in the list of callbacks: it saves at the end of a step, when the average is up to date.

    Args:
        checkpoint: Where the state is kept; replaced as a whole, so a killed run leaves the one before.
        until: When to stop, by `time.monotonic()`.
        peak: Learning rate after `warmup` steps.
        warmup: Steps over which the rate rises.
        keep_seconds: Time between two checkpoints.
        report_seconds: Time between two lines of report.
    """

    def __init__(
        self,
        checkpoint: Path,
        until: float,
        peak: float,
        warmup: int = 300,
        keep_seconds: float = 300,
        report_seconds: float = 60,
    ) -> None:
        self.checkpoint, self.until, self.peak, self.warmup = checkpoint, until, peak, warmup
        self.keep_seconds, self.report_seconds = keep_seconds, report_seconds
        self.sums: dict[str, tuple[float, int]] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.kept = self.reported = self.started = time.monotonic()
        self.first = self.reported_step = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.peak * min(1.0, (trainer.global_step + 1) / self.warmup)

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        # The trainer's own clipping refuses a fused optimiser in mixed precision, for the sake of scaled gradients; in
        # bfloat16 none are scaled.
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        for name, value in module.values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)
        now, last = time.monotonic(), trainer.global_step == trainer.max_steps
        if now - self.reported > self.report_seconds or last or now > self.until:
            speed = (trainer.global_step - self.reported_step) / (now - self.reported)
            values = " ".join(f"{name} {total / count:.4f}" for name, (total, count) in sorted(self.sums.items()))
            print(f"{type(module).__name__}: step {trainer.global_step}, {speed:.2f} steps/s, {values}", flush=True)
            self.reported, self.reported_step, self.sums = now, trainer.global_step, {}
        if now - self.kept > self.keep_seconds or last or now > self.until:
            self.keep(trainer)
            self.kept = now
        if now > self.until:
            trainer.should_stop = True

    def keep(self, trainer: L.Trainer) -> None:
        """Write the checkpoint beside the last one, and put it in its place when it is whole."""
        beside = self.checkpoint.with_suffix(".new")
        trainer.save_checkpoint(beside)
        os.replace(beside, self.checkpoint)


def fit(
    module: L.LightningModule,
    make: Callable[[int], dict[str, Any]],
    checkpoint: Path,
    until: float,
    peak: float,
    precision: str = "32-true",
    max_steps: int = -1,
    accelerator: str = "auto",
    **sitting: Any,
) -> None:
    """Train `module` from its checkpoint, if there is one, until a time or a step; the average is left in it."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_epochs=-1,
        max_steps=max_steps,
        callbacks=[Average(), Sitting(checkpoint, until, peak, **sitting)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=checkpoint.parent,
    )
    trainer.fit(
        module,
        datamodule=StepData(make),
        ckpt_path=checkpoint if checkpoint.is_file() else None,
        weights_only=False,
    )
