"""What a launched job does: one `postdiff run` of a row or a part of it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """One job; submitit calls it where the job runs.

    Attributes:
        experiment: its name.
        row: the row's name.
        words: `key=value` words over the row.
        part: which part of it, from 1.
        parts: of how many.
    """

    experiment: str
    row: str
    words: tuple[str, ...]
    part: int
    parts: int

    def __str__(self) -> str:
        return self.row if self.parts == 1 else f"{self.row} (part {self.part} of {self.parts})"

    def command(self) -> list[str]:
        """The words of the command line."""
        shard = ["--shard", f"{self.part}/{self.parts}"] if self.parts > 1 else []
        return ["postdiff", "run", self.experiment, "--rows", self.row, "--no-bench", *shard, *self.words]

    def __call__(self) -> None:
        """Run it; what it prints goes to the job's logs.

        Raises:
            RuntimeError: it failed; the message is the last line that it told.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", *self.command()], stderr=subprocess.PIPE, text=True, errors="replace"
        )
        told = ""
        try:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stderr.write(line)
                told = line.strip() or told
            code = process.wait()
        except BaseException:
            process.terminate()  # as Ctrl-C: it ends cleanly
            process.wait()
            raise
        if code:
            raise RuntimeError(told.removeprefix("postdiff: error: ") or f"it ended with code {code}")

    def checkpoint(self) -> Any:
        """Asked by submitit when SLURM takes the machine away: the same again, which goes on where this one stops."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
