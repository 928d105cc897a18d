"""A command that is killed, as by SIGKILL or a power cut, at a chosen write of its own.

Writes are numbered: half of a file written, before and after a file takes its place, before and after one is removed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.forks import Fork

__all__ = ["killed", "points"]


class _Count:
    """Counts writes below a folder; keeps what they were in `log`, and kills this process at number `at`."""

    def __init__(self, root: Path, log: Path | None, at: int) -> None:
        self.root, self.log, self.at, self.number = str(root), log, at, 0

    def note(self, what: str) -> None:
        self.number += 1
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(what + "\n")
        if self.number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()

    def install(self) -> None:
        for name in ("replace", "rename", "unlink"):
            setattr(os, name, self._around(name, getattr(os, name)))
        for name in ("write_bytes", "write_text"):
            setattr(Path, name, self._halved(getattr(Path, name)))

    def _around(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*places: Any, **more: Any) -> Any:
            if not self._ours(places[0], more.get("dir_fd")):
                return act(*places, **more)
            self.note(f"before {name} {Path(places[-1]).name}")
            found = act(*places, **more)
            self.note(f"after {name} {Path(places[-1]).name}")
            return found

        return acting

    def _ours(self, place: Any, folder: int | None) -> bool:
        # Temporary folders are emptied in the same way, by names within an open folder.
        named = os.readlink(f"/proc/self/fd/{folder}") if folder is not None else place
        return not isinstance(place, int) and str(named).startswith(self.root)

    def _halved(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(file: Path, content: Any, *given: Any, **more: Any) -> Any:
            if str(file).startswith(self.root):
                act(file, content[: len(content) // 2], *given, **more)
                self.note(f"half {file.suffix}")
            return act(file, content, *given, **more)

        return acting


def points(words: list[str], outputs: Path, folder: Path) -> list[str]:
    """The writes of a command that is not killed.

    Args:
        words: of the command line.
        outputs: the folder that it writes to.
        folder: for what it prints.
    """
    log = folder / "writes"
    process = Fork(words, {**os.environ, "POSTDIFF_OUTPUTS": str(outputs)}, folder, _Count(outputs, log, 0).install)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return log.read_text().splitlines()


def killed(words: list[str], outputs: Path, folder: Path, at: int) -> None:
    """Do a command that is killed at its write number `at`, from 1."""
    process = Fork(words, {**os.environ, "POSTDIFF_OUTPUTS": str(outputs)}, folder, _Count(outputs, None, at).install)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
