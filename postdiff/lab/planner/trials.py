"""What the images of settings are worth: from records that are there, or from a run that leaves them.

Each rung of a race is an experiment in a file of `outputs/plans`, so that `postdiff run FILE --shard 1/2` and
`postdiff launch FILE` do a part of it elsewhere. Its batches begin those of the next rung, whose images are then the
same ones. Records that are committed may be gathered in one file, a calibration, which serves without their images.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from postdiff.engine.errors import UsageError, shown
from postdiff.lab import run
from postdiff.lab.config import experiment as experiments
from postdiff.lab.config.schema import digest
from postdiff.lab.data import data_cards
from postdiff.lab.files import folders
from postdiff.lab.plan.plan import Plan, plan_rows
from postdiff.lab.planner.space import Setting
from postdiff.lab.records import image_values
from postdiff.lab.records import record as records
from postdiff.lab.records.record import Record

__all__ = ["BATCH", "Outcome", "Trials", "gather"]

BATCH = 8  # images at once, and what all counts but the last are multiples of
SCHEMA = 1
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What one setting's images are worth.

    Attributes:
        values: {metric: value of each prompt, a mean over seeds}.
        macs: counted while one image was made, of the denoiser in the dense convention.
    """

    values: Mapping[str, Values]
    macs: int

    def first(self, count: int) -> Outcome:
        """Of the first prompts alone."""
        return Outcome({name: values[:count] for name, values in self.values.items()}, self.macs)


class Trials:
    """Settings of one model on one set of prompts.

    Args:
        base: what every setting's row begins with.
        metrics: to measure, all of single images.
        report: given one line at a time.

    Attributes:
        base: what every setting's row begins with.
        metrics: to measure.
        name: how its experiments are called, before the count of prompts.
        prompts: how many there are.
        made: settings whose images had to be generated, or measured, by this process.
    """

    def __init__(self, base: Mapping[str, Any], metrics: Sequence[str], report: Callable[[str], None]) -> None:
        batches = {"batch_size": BATCH, "bench": {"repeats": 0}}
        self.base = {**base, **batches, "metrics": list(metrics)}
        self.metrics, self._report = list(metrics), report
        self.name = f"plan-{digest(self.base, 8)}"
        self.prompts = len(data_cards.read(data_cards.card(str(base["data"]))))
        self.made: list[str] = []

    def file(self, count: int) -> Path:
        """The experiment of a rung."""
        return folders.outputs() / "plans" / f"{self.name}-{count}.yaml"

    def must_be_begun(self) -> None:
        """Refuse to begin anew.

        Raises:
            UsageError: none of its experiments was ever written.
        """
        if not any(self.file(0).parent.glob(f"{self.name}-*.yaml")):
            raise UsageError(
                f"no plan of these settings was begun in {shown(folders.outputs())}: model, data, objective, device "
                "and key=value words must be the same, the budget may differ; leave out --resume to begin one"
            )

    def measure(self, settings: Sequence[Setting], count: int) -> dict[str, Outcome]:
        """What settings are worth on the first prompts; what is not known yet is run, and leaves its record.

        Raises:
            UsageError: a mistake in a setting, or a folder that cannot be written.
        """
        experiment = self._experiment(settings, count)
        plans = {plan.name: plan for plan in plan_rows(experiment, images=True)}
        found = {name: outcome for name, plan in plans.items() if (outcome := self._known(plan, count)) is not None}
        if missing := [name for name in plans if name not in found]:
            self.made += missing
            run.run(experiment.select(missing), self._report, timed=False, grids=False)
            for name in missing:
                if (outcome := self._recorded(plans[name])) is None:
                    raise UsageError(f"row '{name}' has no whole record after its run; give the same command again")
                found[name] = outcome
        return found

    def _experiment(self, settings: Sequence[Setting], count: int) -> experiments.Experiment:
        rows = {each.name: {"label": each.label, **each.config} for each in settings}
        content = {"summary": f"settings of a plan on {count} prompts", "base": {**self.base, "count": count}}
        file = self.file(count)
        with folders.atomic_write(file) as temporary:
            temporary.write_text(yaml.safe_dump({**content, "rows": rows}, sort_keys=False), encoding="utf-8")
        return experiments.load(str(file))

    def _known(self, plan: Plan, count: int) -> Outcome | None:
        found = self._recorded(plan)
        if found is not None:
            return found
        calibrated = _calibrated()
        for more in sorted({own for own, _ in calibrated.values() if own >= count}):
            whole = _on(plan, more)
            outcome = None if whole is None else calibrated.get(whole.run_id, (0, None))[1]
            if outcome is not None:
                return outcome.first(count)
        return None

    def _recorded(self, plan: Plan) -> Outcome | None:
        """Of the setting's fresh record, if it is whole and of the same images."""
        record = records.full(plan.experiment, plan.name, "quality", plan.run_id)
        if record is None or record.images != plan.images_id:
            return None
        return _outcome(record, self.metrics)


def _on(plan: Plan, count: int) -> Plan | None:
    """The same setting on so many prompts; None if there are fewer."""
    if count == plan.config.count:
        return plan
    entries = data_cards.read(plan.data_card)
    if count > len(entries):
        return None
    config = dataclasses.replace(plan.config, count=count)
    return dataclasses.replace(plan, entries=tuple(entries[:count]), config=config)


def _outcome(record: Record, metrics: Sequence[str]) -> Outcome | None:
    """What a fresh record and the CSV file beside it hold; None if that is not whole."""
    values = image_values.by_prompt(record, metrics)
    if values is None:
        return None
    return Outcome(values, record.denoiser_macs("dense") or 0)


@functools.cache
def _calibrated() -> dict[str, tuple[int, Outcome]]:
    """What is committed: {run_id: prompts, and what the setting is worth on them}."""
    found: dict[str, tuple[int, Outcome]] = {}
    for file in sorted((folders.committed_records() / "plans").glob("*.json")):
        found |= {run_id: (count, outcome) for run_id, (_, count, outcome) in read(file).items()}
    return found


def read(file: Path) -> dict[str, tuple[str, int, Outcome]]:
    """Read a calibration: {run_id: name of the setting, prompts, and what it is worth on them}.

    Raises:
        UsageError: it is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError
        found = {}
        for run_id, entry in content["settings"].items():
            count = int(entry["count"])
            values = {name: np.array(own, float) for name, own in entry["values"].items()}
            if any(own.shape != (count,) or not np.isfinite(own).all() for own in values.values()):
                raise ValueError
            found[run_id] = str(entry["setting"]), count, Outcome(values, int(entry["macs"]))
        return found
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{shown(file)} is no whole calibration; take it away, or gather it again") from None


def gather(trials: Trials, settings: Mapping[str, tuple[Setting, int]], file: Path) -> None:
    """Write what settings are worth to one file; what is not known yet is run.

    Args:
        trials: of a model on prompts.
        settings: {name: setting, and on how many prompts}.
        file: to write.

    Raises:
        UsageError: a mistake in a setting, or the file cannot be written.
    """
    entries = {}
    for count in sorted({own for _, own in settings.values()}):
        outcomes = trials.measure([setting for setting, own in settings.values() if own == count], count)
        plans = {plan.name: plan for plan in plan_rows(experiments.load(str(trials.file(count))), images=True)}
        for name, outcome in outcomes.items():
            values = {metric: [round(float(each), 6) for each in own] for metric, own in outcome.values.items()}
            entries[plans[name].run_id] = {"setting": name, "count": count, "macs": outcome.macs, "values": values}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in entries.items())
    head = json.dumps({"schema": SCHEMA, "base": trials.base})[:-1]
    with folders.atomic_write(file) as temporary:
        temporary.write_text(f'{head}, "settings": {{\n{lines}\n}}}}\n', encoding="utf-8")
