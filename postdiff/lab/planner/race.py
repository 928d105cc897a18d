"""Many settings on few prompts, the best of them on more: each choice alone first, then what their sum promises.

At one budget a choice is worth what it changes against plain fewer steps. Worths are taken to add up, which says
nothing for certain but which combinations to try next. Those then count as they are measured, and the sum is fitted
anew. Survivors go on to more prompts. Plain fewer steps are never left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from postdiff.lab.planner.space import Setting

__all__ = ["Contender", "Pace", "Race", "Rung", "run"]

Losses = NDArray[np.float64]  # of each prompt, lower is better
RIDGE = 0.5  # a choice that was tried once is believed by two thirds


@dataclass(frozen=True)
class Contender:
    """A setting within the budget.

    Attributes:
        setting: with as many steps as the budget allows.
        cost: in the budget's unit.
    """

    setting: Setting
    cost: float

    @property
    def name(self) -> str:
        """Of its row."""
        return self.setting.name


@dataclass(frozen=True)
class Pace:
    """How a race is run.

    Attributes:
        counts: prompts of each rung, rising.
        survivors: how many reach each rung after the first, beside plain fewer steps.
        waves: how often combinations are chosen by what was measured.
        wave: how many each time.
    """

    counts: Sequence[int] = (8, 16, 48)
    survivors: Sequence[int] = (9, 3)
    waves: int = 3
    wave: int = 5

    def of(self, prompts: int) -> Pace:
        """The same for so many prompts in all."""
        counts = sorted({min(count, prompts) for count in self.counts})
        return Pace(counts, self.survivors[: len(counts) - 1], self.waves, self.wave)


@dataclass(frozen=True)
class Rung:
    """Those who were measured on the same prompts, the best first.

    Attributes:
        count: prompts.
        losses: {name: loss of each prompt}.
    """

    count: int
    losses: Mapping[str, Losses]


@dataclass
class Race:
    """How it went.

    Attributes:
        contenders: all that were measured, by name.
        rungs: from few prompts to many.
    """

    contenders: dict[str, Contender] = field(default_factory=dict)
    rungs: list[Rung] = field(default_factory=list)

    @property
    def last(self) -> list[Contender]:
        """Those of the last rung, the best first."""
        return [self.contenders[name] for name in self.rungs[-1].losses]


def run(
    combinations: Sequence[Setting],
    fit: Callable[[Setting], Contender | None],
    measure: Callable[[Sequence[Contender], int], Mapping[str, Losses]],
    pace: Pace,
    beside: Sequence[Contender] = (),
) -> Race:
    """Race them.

    Args:
        combinations: one setting for each combination of choices.
        fit: gives a combination the steps that the budget allows; None if it is beyond the budget or does not fit.
        measure: losses of contenders on so many first prompts.
        pace: how.
        beside: contenders that are no combination of choices, and enter first of all.

    Returns:
        Empty if nothing is within the budget.
    """
    race, field_of_all = Race(), dict.fromkeys(combinations_by_key(combinations))
    waiting = dict(zip(field_of_all, combinations, strict=True))
    found: dict[str, Losses] = {}

    def enter(keys: Sequence[tuple[str, ...]], others: Sequence[Contender] = ()) -> None:
        fitted = [contender for key in keys if (contender := fit(waiting.pop(key))) is not None]
        new = [each for each in [*fitted, *others] if each.name not in race.contenders]
        race.contenders |= {each.name: each for each in new}
        if new:
            found.update(measure(new, pace.counts[0]))

    enter(first(list(waiting)), beside)
    for _ in range(pace.waves):
        worth = _worth([race.contenders[name] for name in found], [float(found[name].mean()) for name in found])
        promising = sorted(waiting, key=lambda key: (sum(worth.get(choice, 0.0) for choice in key), key))
        enter(promising[: pace.wave])
    if not found:
        return race
    race.rungs.append(_ranked(pace.counts[0], found))
    for count, survivors in zip(pace.counts[1:], pace.survivors, strict=True):
        best = race.last[:survivors]
        plain = [each for each in race.last[survivors:] if each.setting.plain]
        race.rungs.append(_ranked(count, measure([*best, *plain], count)))
    return race


def combinations_by_key(combinations: Sequence[Setting]) -> list[tuple[str, ...]]:
    """What tells combinations apart: the names of their choices."""
    return [tuple(setting.choices.values()) for setting in combinations]


def first(keys: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Combinations to begin with: none of the choices, and each of them alone."""
    return [key for key in keys if len(key) <= 1]


def _ranked(count: int, losses: Mapping[str, Losses]) -> Rung:
    return Rung(count, dict(sorted(losses.items(), key=lambda item: (float(item[1].mean()), item[0]))))


def _worth(contenders: Sequence[Contender], losses: Sequence[float]) -> dict[str, float]:
    """{choice: what it changes}, by ridge regression around the plain setting, in units of the losses' spread."""
    choices = sorted({choice for each in contenders for choice in each.setting.choices.values()})
    if not choices:
        return {}
    plain = next((loss for each, loss in zip(contenders, losses, strict=True) if each.setting.plain), min(losses))
    rows = np.array([[choice in each.setting.choices.values() for choice in choices] for each in contenders], float)
    target = np.array(losses) - plain
    solved = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(len(choices)), rows.T @ target)
    return dict(zip(choices, map(float, solved), strict=True))
