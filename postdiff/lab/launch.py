"""The rows of an experiment, or parts of them, as jobs of their own: on this machine or on SLURM, through submitit.

submitit keeps what a job does as a pickle below `outputs/jobs`, and the job runs it: whoever may write there runs code
as the one who launched it.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import fits, sound, spelt
from postdiff.lab import progress, run
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.config.layers import from_words
from postdiff.lab.devices.placement import common
from postdiff.lab.files import folders
from postdiff.lab.launched import Work

__all__ = ["Wish", "launch", "split"]

Say = Callable[[str], None]
LOOK_AGAIN = 0.3  # seconds between two looks at the jobs
MOST = 10_000  # jobs at once, and parts of a row
MONTH = 30 * 24 * 60  # minutes; submitit would end a job on this machine after five
# Short names for what submitit calls otherwise.
SHORT = {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "name": "job_name"}


@dataclass(frozen=True)
class Wish:
    """How jobs are run.

    Attributes:
        shards: parts of each row.
        executor: "local" or "slurm".
        resources: what SLURM is asked for, by submitit's names; `requeue` is how often a job goes on that ran out of
            time or was preempted.
        dry_run: only say what would be run.
        wait: until all have ended; None: if they run here.
        at_once: jobs that run at the same time, if they run here and are waited for.
    """

    shards: int = 1
    executor: str = "local"
    resources: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    wait: bool | None = None
    at_once: int = 1


def split(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Part `slurm.key=value` words from those that change the rows.

    Raises:
        UsageError: one of them sets nothing.
    """
    ours = [word for word in words if not word.startswith("slurm.")]
    asked = from_words([word for word in words if word.startswith("slurm.")]).get("slurm", {})
    found: dict[str, Any] = {}
    for name, value in asked.items():
        if SHORT.get(name, name) in found:
            raise UsageError(f"slurm.{name} sets {SHORT.get(name, name)} once more; give it one value")
        found[SHORT.get(name, name)] = value
    return ours, found


def launch(experiment: Experiment, words: Sequence[str], wish: Wish, say: Say) -> bool:
    """Start one job for each part of each row that is not done, and wait for them if wished.

    Args:
        experiment: the rows.
        words: `key=value` words that they were changed with.
        wish: how.
        say: told of every job.

    Returns:
        Whether all rows are done now.

    Raises:
        UsageError: a mistake in the experiment, submitit or SLURM is not there, or a job has failed.
    """
    _check(wish)
    todo = run.unfinished(experiment)
    parts = range(1, wish.shards + 1)
    works = [Work(experiment.name, name, tuple(words), part, wish.shards) for name in todo for part in parts]
    if wish.dry_run:
        for work in works:
            say(shlex.join(work.command()))
        if wish.executor == "slurm":
            say(f"SLURM: {_resources(experiment, wish)}")
        return False
    if not works:
        return True
    folders.writable_outputs()
    executor = _executor(experiment, wish)
    if wish.executor == "slurm" or wish.wait is False:
        jobs = [_submit(executor, work, say) for work in works]
        say(f"logs: {_logs(experiment)}")
        if not wish.wait:
            return False
        _wait(works, jobs, len(jobs), executor, say)
    else:
        say(f"logs: {_logs(experiment)}")
        _wait(works, [], wish.at_once, executor, say)
    run.draw_grid(experiment)
    return True


def _wait(works: Sequence[Work], jobs: list[Any], at_once: int, executor: Any, say: Say) -> None:
    """Wait for all jobs, submitting those that are not yet, so many at a time."""
    waiting, ended = list(works[len(jobs) :]), 0
    with progress.bar("jobs", len(works), "job") as shown:
        try:
            while ended < len(works):
                now = sum(job.done() for job in jobs)
                shown.update(now - ended)
                ended = now
                while waiting and len(jobs) - ended < at_once:
                    jobs.append(_submit(executor, waiting.pop(0), say))
                time.sleep(LOOK_AGAIN)
        except BaseException:
            for job in jobs:
                if not job.done():
                    job.cancel(check=False)
            raise
    failed = [(work, reason) for work, job in zip(works, jobs, strict=True) if (reason := _reason(job)) is not None]
    if failed:
        work, reason = failed[0]
        raise UsageError(
            f"{len(failed)} of {len(jobs)} jobs failed, first {work}: {reason}; what is made is kept, the same command "
            f"goes on; logs: {executor.folder}"
        )


def _reason(job: Any) -> str | None:
    """Why a job that has ended did not succeed; None if it did."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        job.result()
    except FailedJobError as error:  # its message holds the traceback of the job
        lines = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
        return lines[-1].removeprefix("RuntimeError: ") if lines else " ".join(str(error).split())[:300]
    except (UncompletedJobError, RuntimeError) as error:
        return " ".join(str(error).split())[:300] or "it ended without a result"
    return None


def _submit(executor: Any, work: Work, say: Say) -> Any:
    with _errors_to(Path(executor.folder) / "submitit.log"):
        job = executor.submit(work)
    say(f"{work}: job {job.job_id}")
    return job


@contextmanager
def _errors_to(file: Path) -> Iterator[None]:
    """What is started in the block writes its errors to a file: submitit's own processes tell Ctrl-C in tracebacks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.dup2(log, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(log)


def _executor(experiment: Experiment, wish: Wish) -> Any:
    submitit = _submitit()
    if wish.executor == "local":
        executor = submitit.LocalExecutor(_logs(experiment))
        executor.update_parameters(timeout_min=MONTH)
        return executor
    asked = _typed(_resources(experiment, wish))
    again = asked.pop("requeue", 3)
    try:
        executor = submitit.SlurmExecutor(_logs(experiment), max_num_timeout=again)
    except RuntimeError as error:
        raise UsageError(
            f"there is no SLURM here ({error}); use --executor local, or call it on a login node"
        ) from error
    executor.update_parameters(**asked)
    return executor


def _resources(experiment: Experiment, wish: Wish) -> dict[str, Any]:
    """What SLURM is asked for: a task for each device of the rows, unless said otherwise."""
    settings = common(row.config for row in experiment.rows)
    usual: dict[str, Any] = {"job_name": f"postdiff-{experiment.name.replace('/', '-')}", "time": 24 * 60}
    if settings.devices * settings.num_nodes > 1:
        usual |= {"nodes": settings.num_nodes, "ntasks_per_node": settings.devices}
        if settings.accelerator != "cpu":
            usual["gpus_per_node"] = settings.devices
    return {**usual, **wish.resources}


def _typed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Resources as submitit's annotations have them; a line break in one would add a line to the script of the job.

    Raises:
        UsageError: an unknown resource, or a value of the wrong type or out of range.
    """
    from submitit.slurm import slurm

    known: dict[str, Any] = {name: Any for name in slurm.SlurmExecutor._valid_parameters()}
    known |= {name: hint for name, hint in get_type_hints(slurm._make_sbatch_string).items() if name in known}
    known |= {"requeue": int, "srun_args": list[str] | None}
    found: dict[str, Any] = {}
    for name, value in asked.items():
        if name not in known:
            raise unknown("SLURM resource", name, [*SHORT, *known])
        hint = known[name]
        if str in get_args(hint) and type(value) is int:
            value = str(value)
        if not fits(value, hint):
            raise UsageError(f"slurm.{name}={shown(value)} must be {spelt(hint)}; give another value")
        if not sound(value) or (type(value) is int and value < (1 if name in ("time", "nodes") else 0)):
            raise UsageError(f"slurm.{name}={shown(value)} is out of range; give another number")
        if _several_lines(value):
            raise UsageError(f"slurm.{name}={shown(value)} holds a line break; write one line")
        found[name] = value
    return found


def _several_lines(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_several_lines, (*value, *value.values())))
    return any(map(_several_lines, value)) if isinstance(value, list) else isinstance(value, str) and "\n" in value


def _logs(experiment: Experiment) -> str:
    return str((folders.outputs() / "jobs" / experiment.name).absolute())


def _check(wish: Wish) -> None:
    for name, value in {"--shards": wish.shards, "--jobs": wish.at_once}.items():
        if value < 1:
            raise UsageError(f"{name} {value} is too small; use at least 1")
        if value > MOST:
            raise UsageError(f"{name} {shown(value, 30)} is too large; use at most {MOST}")
    if wish.resources and wish.executor != "slurm":
        name = next(iter(wish.resources))
        raise UsageError(f"slurm.{name} is for SLURM, and the jobs run here; add --executor slurm, or leave it out")
    if not wish.dry_run or wish.resources:
        _submitit()
        _typed(wish.resources)


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UsageError("launching jobs needs submitit; pip install 'postdiff[launch]'") from error
    return submitit
