"""Progress on stderr: a bar with rate and time left, which row of how many it is, and a line after each row."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self, TextIO

from tqdm import tqdm

from postdiff.engine.errors import shown
from postdiff.lab.devices import distributed

__all__ = ["ImageBar", "Rows", "bar", "report"]

FORMAT = "{desc}: {percentage:3.0f}%|{bar:20}| {n}/{total} [{elapsed}, {remaining} left, {rate_fmt}]"
# What variables of the environment would change otherwise.
PLAIN: dict[str, Any] = {"initial": 0, "leave": True, "delay": 0, "unit_scale": False, "postfix": None, "gui": False}
# In a file no bar writes more lines than this, nor one more often than every so many seconds.
LINES, LINE_SECONDS = 20, 30.0
# Below this an estimate of the whole is of no use to anybody.
SHORT = 10.0

_place: ContextVar[str] = ContextVar("place", default="")


def bar(title: str, total: int, unit: str) -> Any:
    """A bar that shows done, total, elapsed and remaining time, and the mean rate; few lines when stderr is a file.

    TQDM_DISABLE in the environment leaves all bars out; its other variables, meant for bars of others, are passed over.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    nowhere = {"disable": True} if sys.stderr is None else {}
    return tqdm(
        total=total,
        desc=_place.get() + title,
        unit=unit,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        dynamic_ncols=terminal,
        mininterval=0.1 if terminal else LINE_SECONDS,
        miniters=None if terminal else max(1, total // LINES),
        position=0,  # bars follow one another, and an old one that was left open must not push the next
        smoothing=0,  # the mean rate: a batch that was found done must not turn the estimate over
        bar_format=FORMAT,
        **PLAIN,
        **nowhere,
    )


def report(line: str) -> None:
    """One line on stderr that leaves bars whole."""
    if sys.stderr is not None:
        tqdm.write(f"postdiff: {shown(line, 2000)}", file=sys.stderr)


class Rows:
    """Where an experiment stands: "row 2 of 7" before every title, and after a row the time gone and to come.

    Args:
        of: rows to run.
    """

    def __init__(self, of: int) -> None:
        self.of, self.number, self.started = of, 0, time.monotonic()

    @contextmanager
    def row(self) -> Iterator[None]:
        """The next row, from start to end; nothing is told of a single row, or of one that failed."""
        self.number += 1
        if self.of == 1:
            yield
            return
        began, token = time.monotonic(), _place.set(f"row {self.number} of {self.of}, ")
        try:
            yield
        finally:
            _place.reset(token)
        now, clock = time.monotonic(), tqdm.format_interval
        gone, left = now - self.started, self.of - self.number
        if left and gone >= SHORT:
            to_come = gone / self.number * left
            report(
                f"row {self.number} of {self.of} took {clock(now - began)}; {clock(gone)} gone, "
                f"about {clock(to_come)} to come if the others take as long on average"
            )


@dataclass
class ImageBar:
    """Counts images while they are generated; on many devices rank 0 counts for all, which go at one pace.

    Attributes:
        title: what is generated.
        total: images in all, of all devices.
        bar: what shows them, on rank 0.
    """

    title: str
    total: int
    bar: Any = None

    def __enter__(self) -> Self:
        if distributed.is_rank_zero():
            self.bar = bar(self.title, self.total, "img")
        return self

    def update(self, seen: int, made: int) -> None:
        """Count `seen` images of this device, of which `made` were generated just now."""
        if self.bar is None or self.bar.disable:
            return
        devices = distributed.share().of
        seen = min(seen * devices, self.total - int(self.bar.n))
        # Images of an earlier run took no time, and the estimate must not think so.
        self.bar.initial += max(seen - made * devices, 0)
        self.bar.update(seen)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.bar is None:
            return
        if kind is None and distributed.share().of > 1:  # shares are equal only nearly, but now all are done
            self.bar.update(self.total - int(self.bar.n))
        self.bar.close()


@dataclass
class _Lines:
    """A file that gets each state of a bar as a line of its own; the others would pile up behind carriage returns."""

    stream: TextIO

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self.stream.write(line + "\n")

    def flush(self) -> None:
        self.stream.flush()
