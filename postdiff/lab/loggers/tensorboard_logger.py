"""A row's folder for TensorBoard: the numbers, the pictures and the config, below `outputs/tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.loggers import mirror_content
from postdiff.lab.plan import Plan
from postdiff.lab.records.record import Record

__all__ = ["TensorBoardRun", "folder"]


def folder(plan: Plan) -> Path:
    """Where the row's event files are: `outputs/tensorboard/<experiment>/<row>/<name>`."""
    return folders.outputs() / "tensorboard" / plan.experiment / plan.name / mirror_content.name(plan)


class TensorBoardRun:
    """An open event file; opened again, another one beside it, which TensorBoard shows as one run.

    Args:
        plan: the row.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        try:
            import torch.utils.tensorboard  # noqa: F401  # Lightning would take tensorboardX in its place
            from lightning.pytorch.loggers import TensorBoardLogger

            place = folder(plan)
            self.logger = TensorBoardLogger(place.parent, name=None, version=place.name, default_hp_metric=False)
            self.writer: Any = self.logger.experiment
        except ModuleNotFoundError as error:
            raise UsageError(
                'tensorboard=true needs TensorBoard; pip install "postdiff[tensorboard]", or use tensorboard=false'
            ) from error

    def quality(self, record: Record, pictures: ImageFolder) -> None:
        """Add numbers as scalars, settings as hyperparameters, the record's origin as text, curves and pictures."""
        settings = self.plan.resolved()
        self.logger.log_hyperparams(settings, mirror_content.numbers(record))
        text = yaml.safe_dump({**settings, **mirror_content.describe(record)}, sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))
        for key, curve in mirror_content.curves(record).items():
            for step, figure in enumerate(curve, 1):
                self.writer.add_scalar(key, figure, step)
        self._pictures(pictures)

    def speed(self, record: Record) -> None:
        """Add a speed record's times."""
        self.logger.log_metrics(mirror_content.times(record), 0)

    def _pictures(self, pictures: ImageFolder) -> None:
        heads, lines = mirror_content.table(self.plan, pictures)
        if not lines:
            return
        text = [heads, ["---"] * len(heads)]
        for sample, figures in lines:
            self.writer.add_image(f"pictures/{sample.prompt}, seed {sample.seed}", pictures.read([sample])[0])
            text.append([_cell(figure) for figure in figures])
        self.writer.add_text("pictures", "".join(f"| {' | '.join(line)} |\n" for line in text))

    def close(self, failed: bool = False) -> None:
        """Write out what is left; TensorBoard knows no failed runs."""
        self.logger.finalize("failed" if failed else "success")
        self.writer.close()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "/")
