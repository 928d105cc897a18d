"""The rows of an experiment, or parts of them, as jobs of SLURM through submitit; or as commands to run by hand.

submitit keeps what a job does as a pickle below `outputs/jobs`, and the job runs it: whoever may write there runs code
as the one who launched it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import fits, sound, spelt
from postdiff.lab.config.experiment import Experiment
from postdiff.lab.config.layers import from_words
from postdiff.lab.files import folders

__all__ = ["LaunchOptions", "launch", "split"]

CLUSTER = "slurm"  # as submitit's AutoExecutor calls it
MAX_SHARDS = 10_000  # of a row
POLL_S = 0.3  # between two looks at the jobs
# Short names for what submitit calls otherwise.
SHORT = {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "name": "job_name"}


@dataclass(frozen=True)
class LaunchOptions:
    """How jobs are run.

    Attributes:
        shards: parts of each row.
        resources: what SLURM is asked for, by submitit's names; `requeue` is how often a job goes on that ran out of
            time or was preempted.
        dry_run: only print the commands.
        wait: until all jobs have ended.
    """

    shards: int = 1
    resources: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    wait: bool = False


@dataclass(frozen=True)
class RowJob:
    """One job: `postdiff run` of a row or a part of it, in a process of its own. submitit calls it where the job runs.

    Attributes:
        name: of the row, and which part of it.
        command: words of the command line.
    """

    name: str
    command: tuple[str, ...]

    def __call__(self) -> None:
        """Run it; what it prints goes to the job's logs.

        Raises:
            RuntimeError: it failed; the message is the last line of its stderr.
        """
        command = [sys.executable, "-m", *self.command]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        last = ""
        try:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
            code = process.wait()
        except BaseException:
            process.terminate()  # as Ctrl-C: it ends cleanly
            process.wait()
            raise
        if code:
            raise RuntimeError(last.removeprefix("postdiff: error: ") or f"it ended with code {code}")

    def checkpoint(self) -> Any:
        """Asked by submitit when SLURM takes the machine away: the same again, which goes on where this one stops."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


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


def launch(experiment: Experiment, words: Sequence[str], options: LaunchOptions, say: Callable[[str], None]) -> bool:
    """Submit one job for each part of each row that is not done, and wait for them if asked to.

    Args:
        experiment: the rows.
        words: `key=value` words that they were changed with.
        options: how.
        say: given the name and number of every job, or its command in a dry run.

    Returns:
        Whether all rows are done now.

    Raises:
        UsageError: a mistake in the experiment, submitit or SLURM is not there, or a job has failed.
    """
    from postdiff.lab import run  # not above: a job, which unpickles what it does from this file, needs no torch
    from postdiff.lab.devices.placement import common
    from postdiff.lab.plan.plan import plan_rows

    shards = options.shards
    if shards < 1:
        raise UsageError(f"--shards {shards} is too small; use at least 1")
    if shards > MAX_SHARDS:
        raise UsageError(f"--shards {shown(shards, 30)} is too large; use at most {MAX_SHARDS}")
    settings = common(row.config for row in experiment.rows)
    asked: dict[str, Any] = {"job_name": f"postdiff-{experiment.name.replace('/', '-')}", "time": 24 * 60}
    if settings.devices * settings.num_nodes > 1:  # a task for each device
        asked |= {"nodes": settings.num_nodes, "ntasks_per_node": settings.devices}
        if settings.accelerator != "cpu":
            asked["gpus_per_node"] = settings.devices
    asked |= options.resources
    if not options.dry_run or options.resources:
        asked = _checked(asked)
    jobs = []
    for row in run.unfinished(experiment):
        for part in range(1, shards + 1):
            shard = ("--shard", f"{part}/{shards}") if shards > 1 else ()
            run_row = ("postdiff", "run", experiment.given or experiment.name, "--rows", row)
            command = (*run_row, "--no-bench", *shard, *words)
            jobs.append(RowJob(row if shards == 1 else f"{row} (part {part} of {shards})", command))
    if options.dry_run:
        for job in jobs:
            say(shlex.join(job.command))
        say(f"# SLURM: {asked}")
        return False
    if not jobs:
        return True
    submitted = _submitted(jobs, asked, str((folders.outputs() / "jobs" / experiment.name).absolute()), say)
    if not options.wait:
        return False
    _wait(jobs, submitted)
    run.draw_grid(experiment, plan_rows(experiment))
    return True


def _submitted(jobs: Sequence[RowJob], asked: dict[str, Any], logs: str, say: Callable[[str], None]) -> list[Any]:
    from submitit import AutoExecutor

    folders.writable_outputs()
    requeue = asked.pop("requeue", 3)
    try:
        executor = AutoExecutor(logs, cluster=CLUSTER, slurm_max_num_timeout=requeue)
    except RuntimeError as error:
        raise UsageError(
            f"there is no SLURM here ({error}); call it on a login node, or run what --dry-run prints"
        ) from error
    executor.update_parameters(**{f"slurm_{name}": value for name, value in asked.items()})
    found = []
    for job in jobs:
        found.append(executor.submit(job))
        say(f"{job.name}: job {found[-1].job_id}")
    say(f"logs: {logs}")
    return found


def _wait(jobs: Sequence[RowJob], submitted: Sequence[Any]) -> None:
    """Wait until all jobs have ended; Ctrl-C cancels them."""
    from submitit.core.utils import FailedJobError, UncompletedJobError
    from submitit.helpers import as_completed

    from postdiff.lab import progress

    with progress.bar("jobs", len(jobs), "job") as shown_bar:
        try:
            for _ in as_completed(submitted, poll_frequency=POLL_S):
                shown_bar.update()
        except BaseException:
            for job in submitted:
                if not job.done():
                    job.cancel(check=False)
            raise
    failed = []
    for own, job in zip(jobs, submitted, strict=True):
        try:
            job.result()
        except (FailedJobError, UncompletedJobError, RuntimeError) as error:
            # A failed job's message holds its traceback.
            lines = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
            reason = lines[-1].removeprefix("RuntimeError: ") if lines else " ".join(str(error).split())[:300]
            failed.append(f"first {own.name}: {reason or 'it ended without a result'}")
    if failed:
        raise UsageError(
            f"{len(failed)} of {len(jobs)} jobs failed, {failed[0]}; what is made is kept, the same command goes on; "
            f"logs: {submitted[0].paths.folder}"
        )


def _checked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Resources as submitit's annotations have them; a line break in one would add a line to the script of the job.

    Raises:
        UsageError: submitit is not installed, an unknown resource, or a value of the wrong type or out of range.
    """
    try:
        import submitit  # noqa: F401
        from submitit.slurm import slurm
    except ModuleNotFoundError as error:
        raise UsageError("launching jobs needs submitit; pip install 'postdiff[launch]'") from error
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
        if "\\n" in repr(value).replace(r"\\", ""):
            raise UsageError(f"slurm.{name}={shown(value)} holds a line break; write one line")
        found[name] = value
    return found
