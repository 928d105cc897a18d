"""One progress bar for pictures, with the time left, on stderr."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback
from tqdm import tqdm

__all__ = ["PictureBar", "bar"]


def bar(title: str, total: int, unit: str) -> Any:
    """A bar that shows done, total, elapsed and remaining time; few lines when stderr is a file."""
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {n}/{total} [{elapsed}, {remaining} left, {rate_fmt}]",
    )


class PictureBar(Callback):
    """Counts pictures while Lightning predicts.

    Args:
        title: what is being made.
        total: pictures in all.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.bar: Any = None

    def on_predict_start(self, *_: Any) -> None:
        self.bar = bar(self.title, self.total, "img")

    def on_predict_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.bar.update(len(batch))

    def on_predict_end(self, *_: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
