"""Mistakes made one after the other, each by a copy of this process, with its time and memory.

python -m tests.lab.survey [COUNT] [SEED] [KIND...]: all that are not told as they should be, and totals.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the threads of a pool would be missing in a copy of the process

from tests.lab.forks import Fork
from tests.lab.mistakes import Mistake

SECONDS, MEGABYTES, CHARACTERS = 20.0, 2000.0, 300
WARM = 700.0  # megabytes of a process that has imported everything and done nothing


@dataclass
class Message:
    """What came of a mistake.

    Attributes:
        code: exit code; None if it had to be killed.
        out: what it printed on stdout.
        err: the same on stderr.
        seconds: how long it took.
        megabytes: the most that it had in memory,
        grown: and by how much that is more than this process has, which it began as a copy of.
        left: files that it left behind.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    megabytes: float
    grown: float
    left: list[str]

    @property
    def faults(self) -> list[str]:
        """What is not as it should be; nothing if all is well."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
        found = [] if self.code == 2 else [f"exit {self.code}"]
        if "Traceback" in self.err:
            found.append("traceback")
        if len(lines) != 1 or not lines[0].startswith("postdiff: error: "):
            found.append(f"{len(lines)} lines")
        if any(len(line) > CHARACTERS for line in lines):
            found.append("too long")
        if any(not line.isprintable() for line in lines):
            found.append("hidden characters")
        if self.out:
            found.append("printed")
        if self.left:
            found.append("left behind")
        if self.seconds > SECONDS:
            found.append("too slow")
        if self.grown > MEGABYTES - WARM:
            found.append("too large")
        return found


def make(one: Mistake, tiny: Path, root: Path) -> Message:
    """Make a mistake in a fresh folder below `root`, which is removed again.

    Args:
        one: the mistake.
        tiny: as `tiny_folder.save_configs` leaves it.
        root: where the folder goes.
    """
    here = root / "here"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    if not (root / "model").exists():
        (root / "model").symlink_to(tiny / "model")
    written(here, one.files)
    if one.changes:
        shutil.copytree(tiny / "model", here / "m", ignore=shutil.ignore_patterns("dual_encoder"))
        changed(here / "m", one.changes)
    log = root / "log"
    log.mkdir(exist_ok=True)
    usual = {"POSTDIFF_PATH": f"{tiny}{os.pathsep}{here}", "POSTDIFF_OUTPUTS": str(here / "outputs")}
    own = {name: value.replace("HERE", str(here)) for name, value in one.environment.items()}
    before = _files(here)
    began = time.monotonic()
    fork = Fork([word.replace("HERE", str(here)) for word in one.words], {**os.environ, **usual, **own}, log)
    megabytes, own = 0.0, _megabytes(os.getpid())
    while fork.poll() is None:
        megabytes = max(megabytes, _megabytes(fork.pid))
        if time.monotonic() - began > SECONDS + 5 or megabytes - own > MEGABYTES:
            break
        time.sleep(0.002 if time.monotonic() - began < 1 else 0.02)
    seconds = time.monotonic() - began
    out, err = fork.communicate(0.0) if fork.returncode is not None else _killed(fork, log)
    left = sorted(str(file) for file in _files(here) - before)
    return Message(fork.returncode, out, err, seconds, megabytes, megabytes - own, left)


def written(root: Path, files: Mapping[str, Any]) -> None:
    """Put files below a folder; HERE in them is that folder."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.replace("HERE", str(root)).encode() if isinstance(content, str) else content)


def changed(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change a model folder as `Mistake.changes` says."""
    for name, change in changes.items():
        file = folder / name
        if change is None:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        elif isinstance(change, dict):
            file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        else:
            written(folder, {name: change})


def _killed(fork: Fork, log: Path) -> tuple[str, str]:
    fork.kill()
    fork.wait()
    fork.returncode = None
    return (log / "stdout").read_text(errors="replace"), (log / "stderr").read_text(errors="replace")


def _megabytes(pid: int) -> float:
    """What a process has in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def _files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file() and not {"locks", "__pycache__"} & set(file.parts)}


def main() -> None:
    from tests.lab import mistake_data, mistake_files, mistake_models, mistakes, tiny_folder

    count, seed = (int(word) for word in (*sys.argv[1:3], "1000", "0")[:2]) if len(sys.argv) > 2 else (1000, 0)
    sources = (mistakes, mistake_files, mistake_models, mistake_data)
    found = [one for each in sources for one in each.everything()]
    found = [one for one in found if not sys.argv[3:] or one.kind.startswith(tuple(sys.argv[3:]))]
    print(len(found), "mistakes are known")
    found = mistakes.chosen(found, count, seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tiny_folder.save_configs(root / "tiny")
        _warm(root / "tiny", root)
        worst, slowest, largest = 0, 0.0, 0.0
        for one in found:
            message = make(one, root / "tiny", root)
            slowest, largest = max(slowest, message.seconds), max(largest, message.megabytes)
            if message.faults:
                worst += 1
                print(f"## {one.kind[:150]} -> {', '.join(message.faults)} {message.left[:2]}")
                print(f"    {message.seconds:.1f} s, {message.megabytes:.0f} MB")
                print("   ", " | ".join(message.err.strip().splitlines()[-3:])[-700:], flush=True)
            elif os.environ.get("ALL"):
                print(f"   {one.kind[:100]} ({message.seconds:.1f} s): {message.err.strip()}")
    print(f"{len(found)} mistakes, {worst} not told well; slowest {slowest:.1f} s, largest {largest:.0f} MB")


def _warm(tiny: Path, root: Path) -> None:
    """Import all that a run needs, which every copy then has."""
    from tests.lab.bad import run

    make(Mistake("warm", run()), tiny, root)
    os.environ |= {"POSTDIFF_PATH": str(tiny), "POSTDIFF_OUTPUTS": str(root / "warm")}
    from postdiff import cli

    sys.stdout, kept = open(os.devnull, "w"), sys.stdout  # noqa: SIM115
    cli.main(list(run()))
    sys.stdout = kept


if __name__ == "__main__":
    main()
