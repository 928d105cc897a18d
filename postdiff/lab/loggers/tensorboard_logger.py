"""A row's folder for TensorBoard: the numbers, the images and the config, below `outputs/tensorboard`."""

from __future__ import annotations

from typing import Any

import yaml

from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.loggers import content
from postdiff.lab.loggers.base import Logger
from postdiff.lab.plan.plan import Plan
from postdiff.lab.records.record import Record

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """An open event file in `outputs/tensorboard/<experiment>/<row>/<name of the run>`.

    Opened again, it is another one beside it, which TensorBoard shows as one run.

    Args:
        plan: the row.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        try:
            import torch.utils.tensorboard  # noqa: F401  # Lightning would take tensorboardX in its place
            from lightning.pytorch import loggers

            place = folders.outputs() / "tensorboard" / plan.experiment / plan.name
            run = content.run_name(plan)
            self.logger = loggers.TensorBoardLogger(place, name=None, version=run, default_hp_metric=False)
            self.writer: Any = self.logger.experiment
        except ModuleNotFoundError as error:
            raise UsageError(
                'tensorboard=true needs TensorBoard; pip install "postdiff[tensorboard]", or use tensorboard=false'
            ) from error

    def quality(self, record: Record, images: ImageFolder) -> None:
        """Add numbers as scalars, settings as hyperparameters, the record's origin as text, curves and images."""
        settings = self.plan.resolved()
        self.logger.log_hyperparams(settings, content.numbers(record))
        text = yaml.safe_dump({**settings, **content.describe(record)}, sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))
        for key, curve in content.curves(record).items():
            for step, value in enumerate(curve, 1):
                self.writer.add_scalar(key, value, step)
        heads, lines = content.table(self.plan, images)
        if not lines:
            return
        table = [heads, ["---"] * len(heads)]
        for sample, values in lines:
            self.writer.add_image(f"images/{sample.prompt}, seed {sample.seed}", images.read([sample])[0])
            table.append([_cell(value) for value in values])
        self.writer.add_text("images", "".join(f"| {' | '.join(line)} |\n" for line in table))

    def speed(self, record: Record) -> None:
        """Add a speed record's times."""
        self.logger.log_metrics(content.times(record), 0)

    def close(self, failed: bool = False) -> None:
        """Write out what is left; TensorBoard knows no failed runs."""
        self.logger.finalize("failed" if failed else "success")
        self.writer.close()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "/")
