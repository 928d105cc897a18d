"""Rows once more on W&B and TensorBoard, for whoever asks for it. Records never depend on it and never wait for long.

A row's run is opened before its pictures are made and closed when its record is written; opened again for the same
row, settings, prompts and seeds it is the same run, so that scores and times measured later join the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postdiff.engine.errors import UsageError
from postdiff.lab.devices import distributed
from postdiff.lab.images.image_folder import ImageFolder
from postdiff.lab.loggers.tensorboard_logger import TensorBoardRun
from postdiff.lab.loggers.wandb_logger import WandbRun, root
from postdiff.lab.plan import Plan
from postdiff.lab.progress import tell
from postdiff.lab.records.record import Record, fresh_path

__all__ = ["again", "finish", "speed", "start"]

Run = WandbRun | TensorBoardRun
Act = Callable[[Run], None]


class _Server:
    """What this process has seen of W&B's server."""

    answered = False
    lost = False


def start(plan: Plan) -> list[Run] | None:
    """Open the runs that the row's config asks for; None if it asks for none, or on all devices but the first.

    Once W&B has answered in this process, its silence is a warning, and what it should have got is kept on disk.

    Raises:
        UsageError: W&B or TensorBoard is not installed, or W&B refuses the first row.
    """
    if not _wanted(plan):
        return None
    # TensorBoard first: what it may lack is told at once, W&B may take its time to refuse.
    boards: list[Run] = [TensorBoardRun(plan)] if plan.config.tensorboard else []
    return [*boards, *(_wandb(plan) if plan.config.wandb != "off" else [])]


def finish(runs: Sequence[Run] | None, plan: Plan, pictures: ImageFolder, record: Record) -> None:
    """Tell the runs what the record says, and close them. What goes wrong is one line of warning.

    Args:
        runs: from `start`; None opens them now, if the row asks for any and the record is full (of a part there is
            nothing to tell yet).
        plan: the row.
        pictures: the row's pictures.
        record: its quality record.
    """
    if runs is None and record.full:
        runs = _opened(plan)
    _tell(runs or (), plan, [lambda run: run.quality(record, pictures)])


def speed(plan: Plan, record: Record) -> None:
    """Tell the row's runs its times. What goes wrong is one line of warning."""
    _tell(_opened(plan), plan, [lambda run: run.speed(record)])


def again(plan: Plan, pictures: ImageFolder) -> None:
    """Tell the row's runs what its records say, for a row that was done before anybody asked for a mirror."""
    if not _wanted(plan):
        return
    acts: list[Act] = []
    for kind in ("quality", "speed"):
        file = fresh_path(plan.experiment, plan.name, kind)
        if file.is_file():
            try:
                acts.append(_act(Record.read(file), pictures))
            except UsageError:
                continue  # damaged: who writes it anew tells it
    _tell(_opened(plan), plan, acts)


def _act(record: Record, pictures: ImageFolder) -> Act:
    return lambda run: run.speed(record) if record.kind == "speed" else run.quality(record, pictures)


def _wanted(plan: Plan) -> bool:
    return (plan.config.tensorboard or plan.config.wandb != "off") and distributed.is_rank_zero()


def _opened(plan: Plan) -> list[Run]:
    """As `start`, but nothing that goes wrong is more than a warning: the record is there already."""
    try:
        return start(plan) or []
    except UsageError as error:
        tell(f"warning: row '{plan.name}' is not mirrored: {error}")
        return []


def _wandb(plan: Plan) -> list[WandbRun]:
    """The row's run on W&B, or offline once W&B has been lost, or none if even that fails."""
    try:
        run = WandbRun(plan, offline=_Server.lost)
    except UsageError as error:
        if not _Server.answered:
            raise
        if _Server.lost:
            tell(f"warning: row '{plan.name}' is not mirrored: {error}")
            return []
        _lose(plan, str(error))
        return _wandb(plan)
    _Server.answered |= not run.offline  # a run on disk says nothing about the server
    return [run]


def _tell(runs: Sequence[Run], plan: Plan, acts: Sequence[Act]) -> None:
    for run in runs:
        reason = _told(run, acts)
        if reason is None:
            continue
        if isinstance(run, WandbRun) and not run.offline:
            _lose(plan, reason)
            # What was sent and what was not, nobody knows: all of it once more, on disk.
            _tell(_wandb(plan), plan, acts)
        else:
            tell(f"warning: row '{plan.name}' is not mirrored whole ({reason}); its record is not affected")


def _told(run: Run, acts: Sequence[Act]) -> str | None:
    """Do all acts and close the run; the first reason why that did not work, or None."""
    reasons = [reason for act in acts if (reason := _refusal(act, run))]
    failed = bool(reasons)
    last = _refusal(lambda run: run.close(failed), run)
    return next(iter(reasons), last)


def _refusal(act: Act, run: Run) -> str | None:
    """Why an act failed: whatever it is, the record is written and the next row must go on."""
    try:
        act(run)
    except Exception as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return None


def _lose(plan: Plan, reason: str) -> None:
    _Server.lost = True
    tell(
        f"warning: row '{plan.name}': W&B has not taken all ({reason}); records are not affected, this and the next "
        f"rows are kept in {root()}, and 'wandb sync' in that folder sends them"
    )
