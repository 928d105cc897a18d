"""What every step of a row computes: each group of modules' work as a share of the same step without methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from postdiff.cost.macs import GROUPS, tally
from postdiff.cost.structures import MetaPipeline
from postdiff.cost.tally import Tally
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.macs.row_macs import Counted, counted
from postdiff.lab.pipelines import cards
from postdiff.lab.plan.plan import Plan, plan_rows
from postdiff.lab.progress import bar
from postdiff.lab.records.record import fresh_path

__all__ = ["shares", "sizes", "timelines"]


def timelines(experiment: Experiment) -> list[dict[str, Any]]:
    """One entry a row, counted without weights; where that will not do and the row was run here, on one image.

    Returns:
        "label", and either "groups" with "shares" (groups x steps: 1 is a plain step's work, 0 is none, more than 1
        stands where one call serves several steps) and "sizes" (the latent's height and width at each step, "-" where
        the network does not run), or "reason", why it cannot be counted. "image" is the prompt of the one image.
    """
    counter, found = _Counter(experiment), []
    with bar("counting steps", len(experiment.rows), "row") as shown:
        for row in experiment.rows:
            try:
                found.append({"label": row.label, **counter.timeline(row)})
            except UsageError as error:
                found.append({"label": row.label, "reason": str(error)})
            shown.update(1)
    return found


class _Counter:
    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._twins: dict[str, MetaPipeline] = {}
        self._pipelines = Pipelines()
        self._counted: dict[str, Counted] = {}  # plain rows without weights, by what they are made with
        self._plain: dict[str, Tally] = {}  # those with weights, by the identity of the images

    def timeline(self, row: Row) -> dict[str, Any]:
        card = cards.card(row.config.model)
        stages = {name: replace(stage, methods=[]) for name, stage in row.config.stages.items()}
        plain = replace(row, config=replace(row.config, methods=[], stages=stages))
        key = repr(plain.config)  # mostly the same in many rows
        try:
            if key not in self._counted:
                self._counted[key] = counted(plain, card, self._twins)
            before, own = self._counted[key], counted(row, card, self._twins)
        except UsageError:
            # A method that decides by features, or a model without a structure.
            if not fresh_path(self._experiment.name, row.name).is_file():
                raise
            return self._with_weights(row, plain)
        return shares(own.tally, before.tally) | {"sizes": sizes(own, before.steps)}

    def _with_weights(self, row: Row, plain: Row) -> dict[str, Any]:
        own, before = plan_rows(replace(self._experiment, rows=(row, plain)))
        if before.images_id not in self._plain:
            self._plain[before.images_id] = self._tally(before)
        return shares(self._tally(own), self._plain[before.images_id]) | {"sizes": [], "image": own.samples[0].prompt}

    def _tally(self, plan: Plan) -> Tally:
        sampler = self._pipelines.sampler(plan)
        return tally(sampler.pipe, lambda: sampler.call([plan.samples[0]]))


def sizes(own: Counted, steps: int) -> list[str]:
    """The latent's height and width at each step, "-" where the network does not run."""
    found = [own.seen.sizes.get(step) for step in range(steps)]
    return ["-" if size is None else f"{size[0]}x{size[1]}" for size in found]


def shares(own: Tally, plain: Tally) -> dict[str, Any]:
    """Work of every step by group of modules, as a share of the same step of the plain run.

    Returns:
        "groups" with "shares", as of `timelines`.
    """

    def share(step: int, group: str | None) -> float:
        whole = plain.work("denoiser", step, group).all
        return round(own.work("denoiser", step, group).all / whole, 3) if whole else 0.0

    groups: list[str | None] = [None, *(group for group in GROUPS if plain.work("denoiser", group=group).all)]
    return {
        "groups": [group or "all" for group in groups],
        "shares": [[share(step, group) for step in range(plain.steps)] for group in groups],
    }
