"""A plan from start to end: what may be spent, what there is, what it costs, what it is worth, and what to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from postdiff import metrics
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import expanded
from postdiff.lab.files import folders
from postdiff.lab.pipelines import cards
from postdiff.lab.planner import kinds, mask_trials, race, space
from postdiff.lab.planner.answer import Answer
from postdiff.lab.planner.budget import Budget
from postdiff.lab.planner.cost import Macs, most_steps
from postdiff.lab.planner.masks import Effort
from postdiff.lab.planner.race import Contender, Pace
from postdiff.lab.planner.space import Setting, Space
from postdiff.lab.planner.times import Times
from postdiff.lab.planner.trials import BATCH, Outcome, Trials

__all__ = ["Beyond", "PlanOptions", "Planning"]

OBJECTIVE, SCORE = "paired_lpips", "emoji_text_score"
# What a plan decides itself, and so nobody sets for all settings.
SEARCHED = (
    *("methods", "count", "batch_size", "bench", "metrics", "stages", "scheduler", "weights", "store", "trainer"),
    *("reference_steps", "reference_scheduler", "bootstrap", "step_scores"),
)
OPTIONS = ("model", "data", "device")


class Beyond(Exception):
    """Nothing is within the budget; the message names the nearest that can be had."""


@dataclass(frozen=True)
class PlanOptions:
    """What is asked for.

    Attributes:
        model: name of a model card, or a pipeline folder.
        budget: as `Budget.parse` reads it.
        data: data card or file of prompts, to calibrate on.
        objective: metric that decides.
        space: name of a file of `configs/plans`, or any file; None means the one for the model.
        prompts: the most that are calibrated on.
        device: as in a row.
    """

    model: str
    budget: str
    data: str = "emoji"
    objective: str = OBJECTIVE
    space: str | None = None
    prompts: int = 48
    device: str = "auto"


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
        for key in overrides:
            if key in OPTIONS:
                raise UsageError(f"'{key}' has an option of its own; write --{key} {shown(overrides[key])}")
            if key in SEARCHED:
                raise UsageError(f"'{key}' is what a plan decides; leave it out, or write a space of your own")
        self.space = _space(options, self.card).up_to(_steps(options, self.card, overrides))
        if options.prompts < BATCH:
            raise UsageError(f"--prompts {options.prompts} tells nothing of settings apart; use {BATCH} or more")
        self.metrics = _metrics(options.objective, self.card.dual_encoder is not None)
        steps = self.space.full["steps"]
        self.base: dict[str, Any] = {"model": options.model, "data": options.data, "seeds": [0]}
        if options.device != "auto":
            self.base["device"] = options.device
        self.base |= {**self.space.full, **overrides, "steps": steps, "reference_steps": steps}
        self.base["reference_scheduler"] = {}
        self.trials = Trials(self.base, self.metrics, report)
        self.pace = Pace((8, 16, options.prompts)).of(min(options.prompts, self.trials.prompts))
        self.full = 0.0  # what the full run costs, once it is counted
        self._cost: Callable[[Setting], float | None]
        self._sign = -1.0 if metrics.facts(options.objective).higher_is_better else 1.0
        self._report = report
        self._outcomes: dict[str, Outcome] = {}
        self._limit, self._cost = math.inf, _unknown

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


def _space(options: PlanOptions, card: cards.ModelCard) -> Space:
    found = space.read(options.space or space.usual(card))
    own = kinds.kind_of(card)
    if found.network not in ("any", own):
        raise UsageError(
            f"space '{found.name}' is for a {found.network}, and model '{shown(options.model)}' has a {own}; use "
            f"--space {space.usual(card)}"
        )
    return found


def _steps(options: PlanOptions, card: cards.ModelCard, overrides: Mapping[str, Any]) -> int:
    """Steps of the full run."""
    steps = overrides.get("steps", _space(options, card).full.get("steps", 20))
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 1000:
        raise UsageError(f"steps={shown(steps)} is no number of steps of the full run; give 1 to 1000")
    return steps


def _metrics(objective: str, encoder: bool) -> list[str]:
    """The objective, and what stands beside it: a score without reference, or a distance."""
    from postdiff.metrics.base import PerImageMetric

    known = metrics.names()
    if objective not in known:
        raise unknown("objective", objective, known)
    if not issubclass(metrics.load(objective), PerImageMetric):
        raise UsageError(
            f"objective '{objective}' is of whole sets of images, and a plan compares prompt by prompt; use {OBJECTIVE}"
        )
    beside = [SCORE] if encoder else []
    if "references" not in metrics.facts(objective).needs:
        beside = [OBJECTIVE]
    return list(dict.fromkeys([objective, *beside]))


def default_file(options: PlanOptions) -> Path:
    """Where a plan is written if nothing else is said: outputs/plans/<model>-<budget>.yaml."""
    model = Path(options.model).name or "model"
    budget = "".join(sign for sign in options.budget if sign.isalnum() or sign == ".")
    return folders.outputs() / "plans" / f"{model}-{budget}.yaml"


def out_file(options: PlanOptions, out: str | None) -> Path:
    """The file to write.

    Raises:
        UsageError: its name does not end in .yaml, which `postdiff run` knows a file by.
    """
    if out is None:
        return default_file(options)
    if not out.endswith(".yaml"):
        raise UsageError(f"--out {shown(out)} must end in .yaml, which 'postdiff run' knows an experiment file by")
    return expanded(out)
