"""`postdiff plan` as a process of its own, so that it can be stopped: its lines as they come, and what it chooses."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from postdiff import catalog
from postdiff.engine.errors import UsageError
from postdiff.lab.app.sessions import Stopped
from postdiff.lab.planner.asked import PlanOptions, out_file
from postdiff.lab.planner.budget import Budget

__all__ = ["Chosen", "Line", "chosen", "plan", "told", "words"]

PATIENCE = 30.0  # seconds that a process has to end by itself
LOOK = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Line:
    """One line of the process: of its answer, or of what it tells on the way."""

    text: str
    answer: bool


@dataclass(frozen=True)
class Chosen:
    """The setting that a plan has chosen.

    Attributes:
        full: steps of the full run.
        steps: its own.
        scheduler: its solver; None means the model's own.
        methods: the stack as a row has it.
    """

    full: int
    steps: int
    scheduler: str | None
    methods: list[Any]


def words(options: PlanOptions, settings: dict[str, Any]) -> tuple[list[str], Path]:
    """The command's words, and the file that it will write.

    Args:
        options: of the plan.
        settings: keys of the rows that are not None.

    Raises:
        UsageError: no budget, or one that cannot be read.
    """
    if not options.budget.strip():
        raise UsageError('the budget is empty; write for instance 0.4x, "12 TMACs" or "1.5 s"')
    Budget.parse(options.budget)
    file = out_file(options, None)
    given = [f"--model={options.model}", f"--budget={options.budget}", f"--data={options.data}"]
    given += [f"--prompts={options.prompts}", f"--out={file}", "--format=markdown"]
    return ["plan", *given, *(f"{key}={value}" for key, value in settings.items() if value is not None)], file


def plan(given: list[str], stop: threading.Event) -> Iterator[Line | None]:
    """Run the command, line by line; None where there was none for a moment.

    Args:
        given: its words.
        stop: once it is set, the process is ended.

    Raises:
        UsageError: what the command refuses, in its own words.
        Stopped: `stop` was set.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "postdiff", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
    readers = [
        threading.Thread(target=_read, args=(stream, answer, lines), daemon=True)
        for stream, answer in ((process.stdout, True), (process.stderr, False))
    ]
    # Also where nobody asks for lines any more, since the page's server has ended.
    threading.Thread(target=_watch, args=(process, stop)).start()
    last = ""
    try:
        for reader in readers:
            reader.start()
        while any(reader.is_alive() for reader in readers) or not lines.empty():
            if stop.is_set():
                raise Stopped
            try:
                line = lines.get(timeout=LOOK)
            except queue.Empty:
                yield None
                continue
            last = last if line.answer else line.text
            yield line
        if process.wait():
            raise UsageError(last.removeprefix("postdiff: ").removeprefix("error: ") or "the plan has ended early")
    finally:
        _end(process)


def told(answer: Sequence[str]) -> str:
    """Sentence, table and notes as Markdown, of the lines of an answer; the rest is for who reads the file."""
    table, *notes, said = "\n".join(answer).partition("\n\nfrom postdiff")[0].split("\n\n")
    return "\n\n".join([said.partition("\n")[0], table, *notes])


def chosen(file: Path) -> Chosen:
    """What a plan's file says.

    Raises:
        UsageError: there is no such file, or it is no plan's.
    """
    content = catalog.read(file)
    try:
        full, own = content["rows"]["full"], content["rows"]["planned"]
        solver = own.get("scheduler")
        name = solver.get("name") if isinstance(solver, dict) else solver
        return Chosen(int(full["steps"]), int(own["steps"]), name, list(own.get("methods") or []))
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{file} is no plan; plan once more") from None


def _read(stream: IO[str] | None, answer: bool, lines: queue.SimpleQueue[Line]) -> None:
    assert stream is not None
    with stream:
        for line in stream:
            lines.put(Line(line.rstrip("\n"), answer))


def _watch(process: subprocess.Popen[str], stop: threading.Event) -> None:
    while process.poll() is None:
        if stop.wait(LOOK):
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
