"""A setting looked at from inside: command-line words to a plan, and its images generated with observers in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import resolve
from postdiff.lab.data.samples import batches
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.plan.plan import Plan, plan_rows
from postdiff.lab.progress import bar
from postdiff.lab.records.stored import images_of
from postdiff.methods.base import Method

__all__ = ["job_of", "observe", "generated_images"]


def job_of(
    experiment: str,
    name: str,
    defaults: Mapping[str, Any],
    words: Mapping[str, Any],
    fixed: Mapping[str, Any] | None = None,
) -> Plan:
    """A plan that no experiment file holds.

    Args:
        experiment: folder for what is found.
        name: of the row, also what the progress bar calls it.
        defaults: config values of the program.
        words: those of the command line, laid over them.
        fixed: what the program compares, which nobody else may set.

    Raises:
        UsageError: unknown key or name, a value out of range, or a key that is the program's own.
    """
    own = {"metrics": [], **(fixed or {})}
    if taken := sorted(own.keys() & words.keys()):
        raise UsageError(f"{taken[0]}=... is set by this program itself; leave it out")
    config = resolve([("settings of this program", {**defaults, **own}), ("command line", words)])
    return plan_rows(Experiment(experiment, "", name, (Row(name, name, config, {}, {}),)))[0]


def observe(plan: Plan, observers: Sequence[Method], title: str) -> None:
    """Generate all samples of a plan for the observers' sake, with a progress bar; they stand outside its methods.

    Args:
        plan: what to generate.
        observers: methods that change nothing.
        title: of the bar.

    Raises:
        UsageError: settings that the pipeline or an observer refuses.
    """
    sampler = Pipelines().sampler(plan)
    driver = accelerate(sampler.pipe, [*observers, *plan.methods])
    # One row of a call each: of a video one frame stands for all.
    rows, size = list({sample.call: sample for sample in plan.samples}.values()), plan.config.batch_size
    with bar(title, len(rows), "img") as shown:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            sampler.call(batch, driver)
            shown.update(len(batch))


def generated_images(plan: Plan, pipelines: Pipelines) -> Tensor:
    """The finished images of a plan, (N, 3, H, W), uint8; those that no run has left behind are generated and kept.

    Raises:
        UsageError: settings that the pipeline refuses.
    """
    folder = images_of(plan)
    missing = [sample for sample in plan.samples if not folder.has(sample)]
    if missing:
        sampler = pipelines.sampler(plan)
        with bar(plan.row.label, len(missing), "img") as shown:
            for batch in batches(missing, plan.config.batch_size):
                folder.write(batch, sampler(batch))
                shown.update(len(batch))
    return folder.read(plan.samples)
