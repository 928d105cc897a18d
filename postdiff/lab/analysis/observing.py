"""A setting looked at from inside: command-line words to a job, and its pictures drawn with observers in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from postdiff import accelerate
from postdiff.engine.errors import UsageError
from postdiff.lab.drawing.sampling import Pipelines
from postdiff.lab.inputs.data import PromptDataModule
from postdiff.lab.job import Job, prepare
from postdiff.lab.progress import bar
from postdiff.lab.runs.quality import pictures
from postdiff.lab.settings.experiment import Experiment, Row
from postdiff.lab.settings.resolving import resolve
from postdiff.methods.base import Method

__all__ = ["job_of", "observe", "pictures_of"]


def job_of(
    experiment: str,
    name: str,
    defaults: Mapping[str, Any],
    words: Mapping[str, Any],
    fixed: Mapping[str, Any] | None = None,
) -> Job:
    """A job that no experiment file holds.

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
    return prepare(Experiment(experiment, "", name, (Row(name, name, config, {}, {}),)))[0]


def observe(job: Job, observers: Sequence[Method], title: str) -> None:
    """Draw all samples of a job for the observers' sake, with a progress bar; they stand outside its methods.

    Args:
        job: what to draw.
        observers: methods that change nothing.
        title: of the bar.

    Raises:
        UsageError: settings that the pipeline or an observer refuses.
    """
    sampler = Pipelines().sampler(job)
    driver = accelerate(sampler.pipe, [*observers, *job.methods])
    # One row of a call each: of a video one frame stands for all.
    rows, size = list({sample.call: sample for sample in job.samples}.values()), job.config.batch_size
    with bar(title, len(rows), "img") as shown:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            sampler.call(batch, driver)
            shown.update(len(batch))


def pictures_of(job: Job, pipelines: Pipelines) -> Tensor:
    """The finished pictures of a job, (N, 3, H, W), uint8; those that no run has left behind are drawn and kept.

    Raises:
        UsageError: settings that the pipeline refuses.
    """
    folder = pictures(job)
    missing = [sample for sample in job.samples if not folder.has(sample)]
    if missing:
        sampler = pipelines.sampler(job)
        with bar(job.row.label, len(missing), "img") as shown:
            for batch in PromptDataModule(missing, job.config.batch_size).predict_dataloader():
                folder.write(batch, sampler(batch))
                shown.update(len(batch))
    return folder.read(job.samples)
