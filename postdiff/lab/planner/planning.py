"""A plan from start to end: what may be spent, what there is, what it costs, what it is worth, and what to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from postdiff import metrics
from postdiff.engine.errors import UsageError
from postdiff.lab.files import folders
from postdiff.lab.pipelines import cards
from postdiff.lab.planner import kinds, mask_trials, race
from postdiff.lab.planner.answer import Answer
from postdiff.lab.planner.asked import PlanOptions, full_steps, metrics_of, refuse_searched, space_of
from postdiff.lab.planner.budget import Budget
from postdiff.lab.planner.cost import Macs, most_steps
from postdiff.lab.planner.masks import Effort
from postdiff.lab.planner.race import Contender, Pace
from postdiff.lab.planner.space import Setting
from postdiff.lab.planner.times import Times
from postdiff.lab.planner.trials import BATCH, Outcome, Trials

__all__ = ["Beyond", "Planning"]


class Beyond(Exception):
    """Nothing is within the budget; the message names the nearest that can be had."""


class Planning:
    """A plan in the making.

    Args:
        options: what is asked for.
        overrides: keys and values for the rows of all settings; `steps` are the full run's.
        report: given one line at a time.

    Raises:
        UsageError: a mistake in what is asked for.
    """

    def __init__(self, options: PlanOptions, overrides: Mapping[str, Any], report: Callable[[str], None]) -> None:
        self.options = options
        self.budget = Budget.parse(options.budget)
        self.card = cards.card(options.model)
        kinds.refuse(options.model, self.card)
        refuse_searched(overrides)
        found = space_of(options, self.card)
        self.space = found.up_to(full_steps(found, overrides))
        if options.prompts < BATCH:
            raise UsageError(f"--prompts {options.prompts} tells nothing of settings apart; use {BATCH} or more")
        self.metrics = metrics_of(options.objective, self.card.dual_encoder is not None)
        steps = self.space.full["steps"]
        self.base: dict[str, Any] = {"model": options.model, "data": options.data, "seeds": [0]}
        if options.device != "auto":
            self.base["device"] = options.device
        self.base |= {**self.space.full, **overrides, "steps": steps, "reference_steps": steps}
        self.base["reference_scheduler"] = {}
        self.trials = Trials(self.base, self.metrics, report)
        self.pace = Pace((8, 16, options.prompts)).of(min(options.prompts, self.trials.prompts))
        self.full = 0.0  # what the full run costs, once it is counted
        self._sign = -1.0 if metrics.facts(options.objective).higher_is_better else 1.0
        self._report = report
        self._outcomes: dict[str, Outcome] = {}
        self._limit = math.inf
        self._cost: Callable[[Setting], float | None] = _unknown

    def costs(self) -> list[Contender]:
        """Plain fewer steps and each choice alone, as the budget allows them: what a race begins with.

        Raises:
            Beyond: nothing is within the budget.
        """
        with Macs(self.base, self.card) as macs:
            fit, limit = self._fit(macs)
            names = race.first(race.combinations_by_key(self.space.combinations))
            by_name = dict(zip(race.combinations_by_key(self.space.combinations), self.space.combinations, strict=True))
            found = [contender for name in names if (contender := fit(by_name[name])) is not None]
            if not found:
                raise self._beyond(limit)
        return found

    def answer(self) -> Answer:
        """Race the settings, and read out how it went.

        Raises:
            Beyond: nothing is within the budget.
            UsageError: a mistake in a setting, or a folder that cannot be written.
        """
        folders.writable_outputs()
        with Macs(self.base, self.card) as macs:
            fit, limit = self._fit(macs)
            found = race.run(self.space.combinations, fit, self._losses, self.pace, self._masked(limit))
            if not found.rungs or not found.rungs[-1].losses:
                raise self._beyond(limit)
            last = {each.name: self._outcomes[each.name] for each in found.last}
            counted = {name: outcome.macs for name, outcome in last.items()} | {"full": macs.full()}
        values = {name: outcome.values for name, outcome in last.items()}
        return Answer(self.budget, self.full, self.base, found, self.options.objective, values, counted)

    def _fit(self, macs: Macs) -> tuple[Callable[[Setting], Contender | None], float]:
        """What gives a combination its steps, and the limit of costs."""
        self._cost = macs.of
        if self.budget.kind == "seconds":
            folders.writable_outputs()
            self._cost = Times(self.base, macs, self._report).of
        self.full = float(self._cost(Setting(int(self.base["steps"]), {}, {}, [])) or macs.full())
        limit, steps = self.budget.limit(self.full), list(self.space.steps)
        self._limit = limit

        def fit(combination: Setting) -> Contender | None:
            found = most_steps(combination, steps, limit, self._cost)
            return None if found is None else Contender(*found)

        return fit, limit

    def _masked(self, limit: float) -> list[Contender]:
        """The full run's steps with the best mask of as many computed ones as the limit allows, for each fill."""
        steps, masks = int(self.space.full["steps"]), self.space.masks

        def computed(count: int) -> Setting:
            return Setting(steps, {"mask": "first"}, {}, [{"step_mask": {"computed": list(range(count))}}])

        # Which steps are computed changes nothing in what a mask costs, so the first ones tell it for all.
        fitting = [count for count in range(1, steps) if (self._cost(computed(count)) or math.inf) <= limit]
        if not masks.fills or not fitting:
            return []
        effort = Effort(annealing=masks.tried * 3 // 5, masks=masks.tried)
        found = mask_trials.searched(self.base, list(masks.fills), fitting[-1], effort, self._report)
        settings = [Setting(steps, {"mask": name}, {}, methods) for name, methods in found.items()]
        return [Contender(each, own) for each in settings if (own := self._cost(each)) is not None]

    def _losses(self, contenders: Sequence[Contender], count: int) -> dict[str, NDArray[np.float64]]:
        outcomes = self.trials.measure([each.setting for each in contenders], count)
        if self.budget.kind != "seconds":
            for each in contenders:
                if (counted := outcomes[each.name].macs) > self._limit:  # its solver was not there to be asked
                    self._report(f"{each.name}: takes {self.budget.written(counted)}, more than was foreseen; left out")
                    del outcomes[each.name]
        self._outcomes |= outcomes
        return {name: self._sign * outcome.values[self.options.objective] for name, outcome in outcomes.items()}

    def _beyond(self, limit: float) -> Beyond:
        fewest = self.space.steps[0]
        costs = [(cost, each.at(fewest)) for each in self.space.combinations if (cost := self._cost(each.at(fewest)))]
        cost, setting = min(costs, key=lambda found: (found[0], found[1].name))
        share = f"{np.ceil(1000 * cost / self.full) / 1000:.3f}x"
        nearest = self.budget.written(1.01 * cost) if self.budget.kind == "seconds" else share
        return Beyond(
            f"no setting is within {self.budget.text} ({self.budget.written(limit)}); the nearest is {setting.label} "
            f"with {self.budget.written(cost)}, so give {nearest} or more"
        )


def _unknown(setting: Setting) -> float | None:
    """What a setting costs before anything is counted."""
    return None
