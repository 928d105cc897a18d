"""A training budget in minutes, the learning rate that follows it, and random numbers that never repeat."""

import math
import time
from datetime import timedelta

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer


class Budget(Timer):
    """Stop after so many minutes of training, and bring the learning rate down to zero exactly then.

    A cosine over steps needs the number of steps in advance, which depends on the machine. Here the schedule is a
    function of the fraction of the time that has passed, so one recipe ends well on a laptop and on a GPU. The elapsed
    time is kept in the checkpoints (by `Timer`): a resumed run continues the same cosine.

    Before each step `module.fraction` is set to that fraction, and each group's rate to
    `peak_lr * min(1, step / warmup) * (1 + cos(pi * fraction)) / 2`.
    """

    def __init__(self, minutes: float, warmup: int = 100, report_seconds: float = 30.0) -> None:
        super().__init__(duration=timedelta(minutes=minutes), verbose=False)
        self.seconds, self.warmup, self.report_seconds = minutes * 60, warmup, report_seconds
        self.reported = -math.inf

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        # One clock for all processes: with rates of their own their weights would drift apart.
        module.fraction = trainer.strategy.broadcast(min(1.0, self.time_elapsed() / self.seconds))
        decay = (1 + math.cos(math.pi * module.fraction)) / 2
        ramp = min(1.0, (trainer.global_step + 1) / self.warmup)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["peak_lr"] * ramp * decay

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: object) -> None:
        super().on_train_batch_end(trainer, module, *args)
        if trainer.is_global_zero and time.monotonic() - self.reported > self.report_seconds:
            self.reported = time.monotonic()
            left = max(0.0, self.seconds - self.time_elapsed()) / 60
            values = " ".join(f"{key} {value:.4f}" for key, value in trainer.callback_metrics.items())
            print(f"{type(module).__name__}: step {trainer.global_step}, {left:.1f} min left, {values}", flush=True)


class OwnRandomness(L.Callback):
    """Give every process, and every resumed run, random numbers of its own once the weights are set."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        torch.manual_seed(1 + trainer.global_step * trainer.world_size + trainer.global_rank)
