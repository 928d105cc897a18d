"""What has been counted, and its sums along parts, steps and groups of modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["CONVENTIONS", "PARTS", "Journal", "Macs", "Tally", "Work"]

CONVENTIONS = ("dense", "fvcore", "all")
PARTS = ("denoiser", "text_encoder", "vae")

Macs = dict[str, int]
Cell = tuple[str, int, str]


@dataclass(frozen=True)
class Work:
    """MACs by convention."""

    dense: int = 0
    fvcore: int = 0
    all: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.dense + other.dense, self.fvcore + other.fvcore, self.all + other.all)

    def __sub__(self, other: Work) -> Work:
        return Work(self.dense - other.dense, self.fvcore - other.fvcore, self.all - other.all)

    def __mul__(self, number: int) -> Work:
        return Work(self.dense * number, self.fvcore * number, self.all * number)

    def __floordiv__(self, number: int) -> Work:
        return Work(self.dense // number, self.fvcore // number, self.all // number)


@dataclass
class Journal:
    """Takes work down while a pipeline runs.

    Attributes:
        part: which part of the pipeline runs now, "" outside all of them.
        step: solver calls that are over.
        group: which group of modules runs now.
        cells: {(part, step, group): work so far}.
    """

    part: str = ""
    step: int = 0
    group: str = "other"
    cells: defaultdict[Cell, Work] = field(default_factory=lambda: defaultdict(Work))

    def add(self, work: Work, group: str | None = None) -> None:
        """Take down work of the present part and step, and of the present group if none is named."""
        self.cells[self.part, self.step, group or self.group] += work

    def here(self) -> dict[str, Work]:
        """{group: work so far} of the present part and step."""
        return {
            group: work for (part, step, group), work in self.cells.items() if (part, step) == (self.part, self.step)
        }


@dataclass(frozen=True)
class Tally:
    """Sums of one pipeline call.

    Attributes:
        cells: {(part, step, group): work}; what cost nothing is left out. A part of one stage of a cascade is written
            "part:stage".
        steps: number of solver calls.
    """

    cells: Mapping[Cell, Work]
    steps: int

    def work(self, part: str | None = None, step: int | None = None, group: str | None = None) -> Work:
        """The sum over all cells that match; None matches everything, and a part also those of its stages."""
        found = (
            work
            for (own, at, within), work in self.cells.items()
            if part in (None, own, own.partition(":")[0]) and step in (None, at) and group in (None, within)
        )
        return sum(found, Work())

    def macs(self, part: str | None = None, step: int | None = None, group: str | None = None) -> Macs:
        """The same as {convention: MACs}."""
        return asdict(self.work(part, step, group))
