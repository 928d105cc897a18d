"""Weights & Biases as an option: one run a row, with its numbers and a few pictures. Records never depend on it."""

from __future__ import annotations

import os
from typing import Any

from postdiff.engine.errors import UsageError
from postdiff.lab import folders
from postdiff.lab.job import Job
from postdiff.lab.pictures import PictureFolder

__all__ = ["finish", "start"]

PICTURES = 8


def start(job: Job) -> Any:
    """A Lightning logger for the row, or None when W&B is off.

    Raises:
        UsageError: W&B is asked for and not installed, or refuses to start.
    """
    if job.config.wandb == "off":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    from lightning.pytorch.loggers import WandbLogger

    root = folders.outputs() / "wandb"
    root.mkdir(parents=True, exist_ok=True)
    try:
        logger = WandbLogger(
            project="postdiff",
            group=job.experiment,
            name=f"{job.experiment}/{job.name}",
            save_dir=root,
            offline=job.config.wandb == "offline",
            config={**job.resolved(), "run_id": job.run_id},
        )
        logger.experiment  # noqa: B018  # connects now, so that a refusal is told before the pictures are measured
    except ModuleNotFoundError as error:
        raise UsageError(f"wandb={job.config.wandb} needs W&B; pip install wandb, or use wandb=off") from error
    except Exception as error:  # W&B raises many kinds: no login, no network, no server
        raise UsageError(f"W&B did not start ({' '.join(str(error).split())}); use wandb=offline") from error
    return logger


def finish(logger: Any, job: Job, pictures: PictureFolder) -> None:
    """Add the first pictures and close the run."""
    if logger is None:
        return
    shown = [sample for sample in job.samples if pictures.has(sample)][:PICTURES]
    logger.log_image(
        "pictures", [str(pictures.file(sample)) for sample in shown], caption=[sample.prompt for sample in shown]
    )
    logger.experiment.finish()
