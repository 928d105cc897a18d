"""Who is looking at the page, and what runs for them: each can stop their own work and no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Sessions"]

PATIENCE = 60.0  # seconds that a step may take until whoever cancels is answered


class Sessions:
    """Work that runs, by session and kind of work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], tuple[threading.Event, threading.Event]] = {}

    @contextmanager
    def working(self, session: str | None, kind: str) -> Iterator[threading.Event]:
        """While the block runs, `stop` sets the event that this gives."""
        key, stop, over = (session or "", kind), threading.Event(), threading.Event()
        with self._lock:
            self._running[key] = stop, over
        try:
            yield stop
        finally:
            over.set()
            with self._lock:
                if self._running.get(key) == (stop, over):
                    del self._running[key]

    def stop(self, session: str | None, kind: str) -> bool:
        """Stop a session's work of a kind, and wait until it is over; whether there was any."""
        with self._lock:
            found = self._running.get((session or "", kind))
        if found is None:
            return False
        stop, over = found
        stop.set()
        over.wait(PATIENCE)
        return True

    def leave(self, session: str | None) -> None:
        """Stop all that runs for a session, or for all of them if None; nobody waits for it."""
        with self._lock:
            found = [events for (own, _), events in self._running.items() if session in (None, own)]
        for stop, _ in found:
            stop.set()
