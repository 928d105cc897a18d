"""Helpers of the tests that compare, break off and take up runs."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from postdiff.lab.files import folders
from postdiff.lab.records.record import Record

# 24 images in batches of which none is full of one seed.
WORDS = ["count=4", "seeds=[0,1,2,3,4,5]", "bench.repeats=0", "batch_size=5", "reference_steps=5"]


def record(outputs: Path, row: str) -> Record:
    """The record of a row of the experiment `tiny`."""
    return Record.read(outputs / "records" / "tiny" / f"{row}.json")


def but_for_times(found: Record) -> dict:
    """A record's content without its times."""
    return {key: value for key, value in dataclasses.asdict(found).items() if key not in ("started", "ended")}


def hashes(outputs: Path, row: str) -> list[tuple[str, str, str]]:
    """Seed, index and pixel hash of each image, as the row's CSV lists them."""
    with (outputs / "records" / "tiny" / f"{row}.csv").open(newline="") as stream:
        return [(line["seed"], line["index"], line["sha256"]) for line in csv.DictReader(stream)]


def contents(outputs: Path) -> dict[str, object]:
    """All that a run leaves but locks: by place what is in it, without times; a left-over is there under its name."""
    found: dict[str, object] = {}
    for file in sorted(outputs.rglob("*")):
        place = file.relative_to(outputs).as_posix()
        if not file.is_file() or file.suffix in (".lock", ".who"):
            continue
        if place.startswith("records/") and file.suffix == ".json":
            found[place] = but_for_times(Record.read(file))
        elif file.suffix == ".npz":  # the archive itself holds the time of day
            with np.load(file) as arrays:
                found[place] = {name: (str(arrays[name].dtype), arrays[name].tobytes()) for name in arrays.files}
        else:
            found[place] = file.read_bytes()
    return found


def states(folder: Path, pattern: str = "*.png") -> dict[Path, int]:
    """When each image below a folder was written, in nanoseconds."""
    files = [file for file in folder.rglob(pattern) if not file.name.startswith(".")]
    return {file: file.stat().st_mtime_ns for file in files}


def left_over(suffix: str = "", pid: int = 999_999_999, machine: str | None = None) -> str:
    """The name of what a process was writing: one that is gone, unless told otherwise."""
    own = folders.temporary_name().split("-")[1]
    return f".postdiff-{machine or own}-{pid}-0123abcd{suffix}"


def start(*words: str, launcher: tuple[str, ...] = ("-m",)) -> subprocess.Popen[str]:
    """`postdiff` in a fresh interpreter, with one thread; `forks.Fork` is a process that need not import anew."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "postdiff", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def add_method(root: Path, name: str, body: str) -> None:
    """A method of the test's own below `root`, for POSTDIFF_PATH: `body` is what its hook `step` does first."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    code = (
        "import os, signal, time\nfrom dataclasses import dataclass\nfrom postdiff.methods.base import Method\n\n\n"
        f"@dataclass\nclass {name.capitalize()}(Method):\n"
        "    def step(self, forward, output, timestep, sample, state):\n"
        f"{lines}        return forward(output, timestep, sample)\n"
    )
    for kind, suffix, text in (
        ("methods", ".py", code),
        (
            "configs/methods",
            ".yaml",
            yaml.safe_dump({"label": name, "reference": "none", "methods": [{name: {}}], "identity": []}),
        ),
    ):
        file = root / kind / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
