"""Which calls are in the middle of a run with a scheduler: one with a memory serves a single run at a time."""

from __future__ import annotations

import threading
from typing import Any

from postdiff.engine.errors import UsageError

__all__ = ["leave", "take"]

_lock = threading.Lock()
_users: dict[int, set[int]] = {}  # {id of a scheduler: ids of the calls that use it}


def take(scheduler: Any, call: object) -> None:
    """Two calls may share a solver that remembers nothing; the bare pipeline's images are right then too.

    Raises:
        UsageError: it remembers its run, and is in the middle of one.
    """
    remembers = any(hasattr(scheduler, name) for name in ("_step_index", "ets", "model_outputs"))
    with _lock:
        users = _users.setdefault(id(scheduler), set())
        if users and remembers:
            kind = type(scheduler).__name__
            raise UsageError(
                f"this pipeline's {kind} is in the middle of another run, which it remembers; give each pipeline a "
                f"scheduler of its own, for instance {kind}.from_config(pipe.scheduler.config)"
            )
        users.add(id(call))


def leave(scheduler: Any, call: object) -> None:
    """The call is over, or never began."""
    with _lock:
        users = _users.get(id(scheduler), set())
        users.discard(id(call))
        if not users:
            _users.pop(id(scheduler), None)
