"""A row's run on Weights & Biases, or in its offline form on disk. Never hangs; what cannot be sent stays on disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.loggers import content
from postdiff.lab.loggers.base import Logger
from postdiff.lab.loggers.wandb_reader import ended
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import Record

__all__ = ["WandbLogger", "root"]

# Sending images takes longer than saying hello.
PATIENCE = 4
PAUSES = 0.005, 0.5  # seconds between two looks at a file: at first, and at most


def root() -> Path:
    """Folder of everything that W&B writes."""
    return folders.outputs() / "wandb"


class WandbLogger(Logger):
    """An open run; opened again for the same row and settings, it goes on as the same run.

    Args:
        plan: the row.
        offline: write to disk and connect to nothing, whatever the config says.

    Raises:
        UsageError: W&B is not installed, or refuses to start: no login, no network, no server.
    """

    def __init__(self, plan: Plan, offline: bool = False) -> None:
        super().__init__(plan)
        self.offline = offline or plan.config.wandb == "offline"
        root().mkdir(parents=True, exist_ok=True)
        with _environment(self.offline):
            self.run = self._open()
            self.file = Path(self.run.settings.sync_file).absolute()

    def quality(self, record: Record, images: ImageFolder) -> None:
        """Add a quality record's numbers, curves and origin, and the table of images."""
        with _environment(self.offline):
            self.run.config.update(content.describe(record), allow_val_change=True)
            self._curves(record)
            self.run.log(content.numbers(record))
            # Last: the server is asked about earlier images, which may take long, or fail.
            if (table := self._table(images)) is not None:
                self.run.log({"images": table})

    def speed(self, record: Record) -> None:
        """Add a speed record's times."""
        with _environment(self.offline):
            self.run.log(content.times(record))

    def close(self, failed: bool = False) -> None:
        """End the run: the server has all of it then, or offline its file.

        Raises:
            TimeoutError: the server has not taken all of it in time, and the rest is on disk; or offline, the file is
                not whole by then.
        """
        with _environment(self.offline):
            self.run.finish(exit_code=1 if failed else 0)
        if self.offline:
            _wait_for_end(self.file, PATIENCE * self.plan.config.logger.timeout)

    def _curves(self, record: Record) -> None:
        curves = content.curves(record)
        if curves:
            self.run.define_metric("denoising_step", hidden=True)
            self.run.define_metric("curves/*", step_metric="denoising_step")
        for step in range(max(map(len, curves.values()), default=0)):
            at_step = {key: curve[step] for key, curve in curves.items() if step < len(curve)}
            self.run.log({"denoising_step": step + 1, **at_step})

    def _table(self, images: ImageFolder) -> Any:
        import wandb

        heads, lines = content.table(self.plan, images)
        rows = []
        for sample, values in lines:
            pixels = images.read([sample])[0].permute(1, 2, 0).numpy()
            rows.append([wandb.Image(pixels), *values])
        return wandb.Table(columns=["image", *heads], data=rows) if rows else None

    def _open(self) -> Any:
        plan, timeout = self.plan, self.plan.config.logger.timeout
        mode: Literal["offline", "online"] = "offline" if self.offline else "online"
        try:
            import wandb

            if wandb.run is not None:  # a row that failed and was passed over has left its run open
                wandb.run.finish(exit_code=1)
            return wandb.init(
                id=content.run_name(plan),
                resume="allow",
                mode=mode,
                project=plan.config.logger.project or os.environ.get("WANDB_PROJECT") or "postdiff",
                entity=plan.config.logger.entity,
                group=plan.experiment,
                name=f"{plan.experiment}/{plan.name}",
                notes=plan.row.label,
                tags=content.tags(plan),
                dir=root(),
                config={**plan.resolved(), "run_id": plan.run_id},
                settings=wandb.Settings(
                    init_timeout=timeout,
                    login_timeout=timeout,
                    finish_timeout=PATIENCE * timeout,
                    finish_timeout_raises=True,
                    silent=True,
                    console="off",  # stdout holds tables that other programs read, and stderr bars
                ),
            )
        except ModuleNotFoundError as error:
            raise UsageError(f'wandb={mode} needs W&B; pip install "postdiff[lab]", or use wandb=off') from error
        except Exception as error:  # W&B raises many kinds: no login, no network, no server
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(f"W&B did not start ({reason}); use wandb=offline, or see 'wandb login'") from error


def _wait_for_end(file: Path, patience: float) -> None:
    """Wait until a run's file is whole, which W&B's own process writes: `finish` returns before it has closed it.

    W&B itself waits for that only where it takes down the whole process, with whatever else is logged there.

    Raises:
        TimeoutError: the file has no exit record by then.
    """
    until, pause = time.monotonic() + patience, PAUSES[0]
    while not ended(file):
        if time.monotonic() >= until:
            raise TimeoutError(f"after {patience:g} s W&B has not written {file} to its end")
        time.sleep(pause)
        pause = min(2 * pause, PAUSES[1])


@contextmanager
def _environment(offline: bool) -> Iterator[None]:
    """For a moment, environment variables that W&B reads: its files all below `root`, and no reports when offline.

    Its log has handlers that print a traceback when the disk is full; the row's own line says what went wrong.
    """
    wanted = {"WANDB_DATA_DIR": os.environ.get("WANDB_DATA_DIR") or str(root().absolute()), "WANDB_SILENT": "true"}
    if offline:
        wanted["WANDB_ERROR_REPORTING"] = "false"  # or it counts its own use on its server, offline too
    before = {key: os.environ.get(key) for key in wanted}
    os.environ |= wanted
    message, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = message
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
