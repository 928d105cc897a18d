"""Who is looking at the page, what runs for them, and whose turn it is: each can stop their own work and no other.

The line is kept here, not by Gradio: where one of Gradio's events is cancelled, the server later forgets all that the
session has in its queue, also what was asked for since.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Sessions", "Stopped"]

PATIENCE = 60.0  # seconds that a step may take until whoever cancels is answered
LOOK = 0.1  # seconds between two looks at the line


class Stopped(BaseException):
    """Somebody has asked for an end; no `Exception`, since no pipeline may take it for an error of its own."""


class Sessions:
    """Work that runs, by session and kind of work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], tuple[threading.Event, threading.Event]] = {}
        self._line: list[threading.Event] = []  # by the events that stop; the first one's turn it is

    @contextmanager
    def working(self, session: str | None, kind: str) -> Iterator[threading.Event]:
        """While the block runs, it is in the line, and `stop` sets the event that this gives.

        What the session has of this kind already is stopped first.
        """
        key, stop, over = (session or "", kind), threading.Event(), threading.Event()
        while not self._entered(key, stop, over):
            self.stop(session, kind)
        try:
            yield stop
        finally:
            with self._lock:
                self._line.remove(stop)
                del self._running[key]
            over.set()

    def _entered(self, key: tuple[str, str], stop: threading.Event, over: threading.Event) -> bool:
        """Put work in the line, unless the session has some of this kind there."""
        with self._lock:
            if key in self._running:
                return False
            self._running[key] = stop, over
            self._line.append(stop)
            return True

    def before(self, stop: threading.Event) -> Iterator[int]:
        """How many are before this one in the line, whenever that changes, until it is its turn.

        Raises:
            Stopped: `stop` was set.
        """
        told = 0
        while True:
            if stop.is_set():
                raise Stopped
            with self._lock:
                place = self._line.index(stop)
            if place == 0:
                return
            if place != told:
                yield place
                told = place
            stop.wait(LOOK)

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
