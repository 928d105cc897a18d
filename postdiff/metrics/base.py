"""What every metric is: a torchmetrics `Metric` that says itself what tables print, what it needs, how it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from postdiff.engine.errors import unknown
from postdiff.engine.values import between
from postdiff.metrics.checkpoints import Checkpoint

__all__ = ["BaseMetric", "PerImageMetric", "Resources", "check_choice", "check_ranges"]


def check_ranges(options: object, **bounds: tuple[int, int]) -> None:
    """Refuse options, each called by its name, that are below or above their bounds; None passes.

    Raises:
        UsageError: with the bound.
    """
    for name, (least, most) in bounds.items():
        if (value := getattr(options, name)) is not None:
            between(least, most, "", name, value)


def check_choice(options: object, name: str, choices: Iterable[str]) -> None:
    """Refuse an option that is none of some words.

    Raises:
        UsageError: with the nearest one.
    """
    if getattr(options, name) not in choices:
        raise unknown(name, getattr(options, name), choices)


@dataclass(frozen=True)
class Resources:
    """What a row offers the metrics that measure it; nothing is loaded yet.

    Attributes:
        data: name of its data set.
        statistics_folder: where reference statistics are kept by name.
        encoder: folder of its model's dual encoder, if the model card names one.
        statistics: file of reference images' features in that encoder, if the data card names one.
        features: file of reference images' features in a network of `postdiff.metrics.features.MODES`, if the data card
            names one.
    """

    data: str
    statistics_folder: Path
    encoder: Path | None = None
    statistics: Path | None = None
    features: Path | None = None


class BaseMetric(Metric):
    """A metric of generated images. The first line of its docstring says what it is, in `postdiff list metrics`.

    `update` asks for what it needs by name: `images` and `references` (B, 3, H, W), uint8; `prompts`, a list.

    Attributes:
        title: column heading.
        higher_is_better: direction of improvement.
        digits: decimals worth printing.
        least: images a seed without which it means nothing.
        needs: what not every row offers: "references" (the images of the reference run), "encoder", "statistics".
        by_default: whether rows that name no metrics are measured with it; nothing may be fetched for it then.
        weights: what it is built from, if that is a folder or repository that an environment variable names.
        Options: dataclass of what a config can set, or None.
        resamples: how many times the images should be drawn anew for an interval.
    """

    full_state_update = False
    is_differentiable = False
    title: str = ""
    digits: int = 2
    least: int = 1
    needs: tuple[str, ...] = ()
    by_default: bool = False
    weights: Checkpoint | None = None
    Options: type[Any] | None = None
    resamples: int = 0

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """The metric with the networks behind it.

        Args:
            options: an instance of `Options`; None if there is none.
            resources: what the row offers.

        Raises:
            UsageError: weights or reference statistics are missing or do not fit.
        """
        build: Any = cls
        return build() if options is None else build(options)

    @classmethod
    def rests_on(cls, options: Any, resources: Resources) -> list[str | None]:
        """Hashes of the files that `options` lead to, without loading them; None for each that is missing."""
        return []

    def identity(self) -> dict[str, Any]:
        """What a reader must know to compare the value with another one."""
        return {}


class PerImageMetric(BaseMetric):
    """Mean over images, summed in float64; the values of the last batch stay readable for the per-image CSV.

    Attributes:
        last: values of the last `update`, shape (B,), on the CPU.
    """

    sums: Any
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # One of each batch: added up in their order, they give the same bits on many devices as on one.
        self.add_state("sums", [], dist_reduce_fx="cat")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.last = torch.empty(0)

    def add(self, values: Tensor) -> None:
        """Take in one value per image, shape (B,)."""
        values = values.detach()
        self.last = values.cpu()
        self.sums.append(values.double().sum().reshape(1))
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean, a float64 scalar; NaN when there was no image."""
        total = torch.zeros((), dtype=torch.float64, device=self.count.device)
        for batch in self.sums:  # a list, or once they are joined a tensor
            total = total + batch.squeeze()
        return total / self.count
