"""What a logger is. One of your own is a file `loggers/NAME.py` in a folder of `POSTDIFF_PATH`, with one subclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postdiff.lab.images.image_folder import ImageFolder
    from postdiff.lab.plan.plan import Plan
    from postdiff.lab.records.record import Record

__all__ = ["Logger"]


class Logger:
    """Opened for one row before its images are made; given what its records say; then closed.

    What `__init__` raises stops the run before anything is made. What the other methods raise is one warning: the
    record is written by then. `postdiff.lab.loggers.content` has a record's numbers as flat {name: number}.

    Args:
        plan: the row.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def quality(self, record: Record, images: ImageFolder) -> None:
        """Log a quality record; `images.read(samples)` gives its images as tensors (number, 3, height, width)."""

    def speed(self, record: Record) -> None:
        """Log a speed record."""

    def close(self, failed: bool = False) -> None:
        """The row is over; `failed` says that logging it was not whole."""
