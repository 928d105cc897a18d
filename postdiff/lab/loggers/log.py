"""Rows on the loggers that their config asks for. Records never depend on one and never wait for long.

A row's loggers are opened before its images are made and closed when its record is written. Opened again for the same
row, settings, prompts and seeds they go on as the same run, so that scores and times measured later join the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError
from postdiff.lab.devices import distributed
from postdiff.lab.loggers import SHIPPED
from postdiff.lab.loggers.base import Logger
from postdiff.lab.loggers.tensorboard_logger import TensorBoardLogger
from postdiff.lab.loggers.wandb_logger import WandbLogger, root
from postdiff.lab.plan.plan import Plan
from postdiff.lab.progress import report
from postdiff.lab.records.record import KINDS, Record, fresh_path
from postdiff.lab.records.stored import images_of

__all__ = ["finish", "relog", "start"]


class _Server:
    """What this process has seen of W&B's server."""

    answered = False
    lost = False


def start(plan: Plan) -> list[Logger]:
    """Open the loggers that the row's config asks for, on the first device alone.

    Once W&B has answered in this process, its silence is a warning, and what it should have got is kept on disk.

    Raises:
        UsageError: an unknown or broken logger, W&B or TensorBoard is not installed, or W&B refuses the first row.
    """
    if not distributed.is_rank_zero():
        return []
    # W&B last: what others may lack is told at once, W&B may take its time to refuse.
    opened = [_own(name, plan) for name in plan.config.logger.names]
    if plan.config.tensorboard:
        opened.append(TensorBoardLogger(plan))
    if plan.config.wandb != "off":
        opened += _wandb(plan)
    return opened


def finish(loggers: Sequence[Logger] | None, plan: Plan, record: Record) -> None:
    """Log a record of the row, and close the loggers. What goes wrong is one line of warning.

    Args:
        loggers: from `start`; None opens them now, if the row asks for any and the record is full (of a part there is
            nothing to log yet).
        plan: the row.
        record: of its quality or of its times.
    """
    if loggers is None and record.full:
        loggers = _opened(plan)
    if loggers:
        _log(loggers, plan, [record])


def relog(plan: Plan) -> None:
    """Log what the row's records say, for a row that was done before anybody asked for a logger."""
    loggers, records = _opened(plan), []
    if not loggers:
        return
    for kind in KINDS:
        file = fresh_path(plan.experiment, plan.name, kind)
        with suppress(UsageError):  # damaged: who writes it anew logs it
            records += [Record.read(file)] if file.is_file() else []
    _log(loggers, plan, records)


def _opened(plan: Plan) -> list[Logger]:
    """As `start`, but nothing that goes wrong is more than a warning: the record is there already."""
    try:
        return start(plan)
    except UsageError as error:
        report(f"warning: row '{plan.name}' is not logged: {error}")
        return []


def _own(name: str, plan: Plan) -> Logger:
    """A logger of one's own."""
    if name in SHIPPED:
        raise UsageError(f"logger.names: '{name}' has a key of its own; write {name}=... and leave it out there")
    cls: type[Logger] = plugins.find("loggers", name, Logger)
    try:
        return cls(plan)
    except UsageError:
        raise
    except Exception as error:
        raise plugins.broken("loggers", name, "opened", error, name) from error


def _wandb(plan: Plan) -> list[WandbLogger]:
    """The row's run on W&B, or offline once W&B has been lost, or none if even that fails."""
    try:
        run = WandbLogger(plan, offline=_Server.lost)
    except UsageError as error:
        if not _Server.answered:
            raise
        if _Server.lost:
            report(f"warning: row '{plan.name}' is not logged: {error}")
            return []
        _lose_server(plan, str(error))
        return _wandb(plan)
    _Server.answered |= not run.offline  # a run on disk says nothing about the server
    return [run]


def _log(loggers: Sequence[Logger], plan: Plan, records: Sequence[Record]) -> None:
    """Log all records on each logger and close it."""
    for logger in loggers:
        reasons = [reason for record in records if (reason := _refusal(partial(_add, logger, plan, record)))]
        failed = bool(reasons)
        reasons.append(_refusal(partial(logger.close, failed)))
        if reasons[0] and isinstance(logger, WandbLogger) and not logger.offline:
            _lose_server(plan, reasons[0])
            # What was sent and what was not, nobody knows: all of it once more, on disk.
            _log(_wandb(plan), plan, records)
        elif reasons[0]:
            report(f"warning: row '{plan.name}' is not logged whole ({reasons[0]}); its record is not affected")


def _add(logger: Logger, plan: Plan, record: Record) -> None:
    if record.kind == "quality":
        logger.quality(record, images_of(plan))
    else:
        logger.speed(record)


def _refusal(act: Callable[[], None]) -> str:
    """Why an act failed, or "": whatever it is, the record is written and the next row must go on."""
    try:
        act()
    except Exception as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ""


def _lose_server(plan: Plan, reason: str) -> None:
    _Server.lost = True
    report(
        f"warning: row '{plan.name}': W&B has not taken all ({reason}); records are not affected, this and the next "
        f"rows are kept in {root()}, and 'wandb sync' in that folder sends them"
    )
