"""A stopwatch that always runs for exactly one place, so that the times of all places add up to the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from postdiff.cost.moments import CpuMoments, Moments
from postdiff.cost.tally import Cell

__all__ = ["BEFORE", "DRIVER", "OUTSIDE", "PIPELINE", "SOLVER", "Stopwatch", "TimeProfile", "middle"]

OUTSIDE = "outside"  # the part that is none of the networks
DRIVER, SOLVER, PIPELINE = "driver", "solver", "pipeline"  # groups beside those of modules
BEFORE = -1  # the step of what runs before the first network call of a denoiser

Place = tuple[str, str]  # part and group


class Stopwatch:
    """Charges the time since the last boundary to the place that it was spent in.

    Boundaries are noted down and worked out in the end, so that on a GPU nothing waits at any of them: a place is
    charged what the GPU did for it, and what it idled while the CPU was still there. What the CPU does while the GPU is
    busy costs nothing, and shows nowhere.

    Args:
        moments: the clock.

    Attributes:
        step: the cell's step; whoever watches the solver moves it on.
    """

    def __init__(self, moments: Moments | None = None) -> None:
        self._moments: Moments = CpuMoments() if moments is None else moments
        self.step = BEFORE
        self._places: list[Place] = [(OUTSIDE, PIPELINE)]
        self._charged: list[tuple[Cell, Any]] = []  # each with the moment that ends it
        self._begin: Any = None

    def start(self) -> None:
        """From here on time is charged."""
        self._moments.wait()
        self._begin = self._moments.now()

    def stop(self) -> TimeProfile:
        """The last boundary; returns what has been charged."""
        self._charge()
        self._moments.wait()
        cells: defaultdict[Cell, float] = defaultdict(float)
        last = self._begin
        for cell, moment in self._charged:
            cells[cell] += self._moments.seconds(last, moment)
            last = moment
        return TimeProfile(dict(cells), max(self.step, 0), self._moments.seconds(self._begin, last))

    @property
    def place(self) -> Place:
        """Part and group that time is charged to now."""
        return self._places[-1]

    def surrounding(self) -> Place:
        """The nearest place around that is not the driver's: where an intercepted module without a group runs."""
        return next(place for place in reversed(self._places) if place[1] != DRIVER)

    def enter(self, place: Place) -> None:
        """A boundary: from here on time is charged to `place`."""
        self._charge()
        self._places.append(place)

    def leave(self) -> None:
        """A boundary: the place entered last is left."""
        self._charge()
        self._places.pop()

    @contextmanager
    def within(self, place: Place) -> Iterator[None]:
        """Both boundaries, also after an exception."""
        self.enter(place)
        try:
            yield
        finally:
            self.leave()

    def next_step(self) -> None:
        """A boundary: what follows belongs to the next step."""
        self._charge()
        self.step += 1

    def _charge(self) -> None:
        part, group = self._places[-1]
        self._charged.append(((part, self.step, group), self._moments.now()))


@dataclass(frozen=True)
class TimeProfile:
    """Seconds of one pipeline call, or of several in the middle (`middle`).

    Attributes:
        cells: {(part, step, group): seconds}. Parts are those of a tally and "outside"; groups those of modules,
            "driver" in every denoiser and outside, "solver" and "pipeline" outside.
        steps: number of solver calls.
        wall_s: of the whole call; of one call the sum of all cells.
    """

    cells: Mapping[Cell, float]
    steps: int
    wall_s: float

    def seconds(self, part: str | None = None, step: int | None = None, group: str | None = None) -> float:
        """The sum over all cells that match; None matches everything, and a part also those of its stages."""
        return sum(
            spent
            for (own, at, within), spent in self.cells.items()
            if part in (None, own, own.partition(":")[0]) and step in (None, at) and group in (None, within)
        )


def middle(profiles: Sequence[TimeProfile]) -> TimeProfile:
    """The median of each cell over calls of one kind, so that a hiccup in one of them shows nowhere.

    A cell that a call lacks counts as 0 there. The sum of medians is not quite the median of sums, which is `wall_s`.
    """
    names = dict.fromkeys(name for profile in profiles for name in profile.cells)
    cells = {name: median(profile.cells.get(name, 0.0) for profile in profiles) for name in names}
    return TimeProfile(cells, profiles[0].steps, median(profile.wall_s for profile in profiles))
