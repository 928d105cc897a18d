"""The first minutes on a GPU, spent in order of worth: tests, then speed beside its goals.

    python experiments/gpu_check.py --minutes 9 --out FOLDER
    python experiments/gpu_check.py --minutes 2 --out FOLDER --tiny --stages sd15_768,flux   # dry run, on any machine

What is done, stage by stage, stands in experiments/on_gpu/stages.py, and the goals in goals.py beside it. Every stage
is a process with a time limit of its own and leaves its records at once, so that whatever ends this program loses one
stage at most. Stages that no longer fit are left out and named, and time that one leaves goes to those after it.

FOLDER gets four files: summary.md and summary.json (written anew after each stage), log.txt, and records.zip with all
records, profiles and logs, which lie in FOLDER too, or else in the folder that `--work` names.
POSTDIFF_OUTPUTS=FOLDER/outputs shows them to `postdiff table`.

A machine without a network takes `--wheels WHEELS`, a folder of wheels: those that it lacks, or has in another version,
are put into a folder of their own, which this program's processes alone see. Where torch, torchvision, transformers,
lightning, torchmetrics, safetensors, numpy, pillow, matplotlib, pyarrow, requests, filelock, tqdm, PyYAML and pytest
are installed already, what is lacking is made for any machine and small: diffusers, DeepCache and tomesd; and
huggingface_hub where it is older than diffusers asks for. wandb, clean-fid, ftfy, sentencepiece, protobuf and
beautifulsoup4 are not needed for speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from on_gpu import processes, wheels
from on_gpu.clock import Clock
from on_gpu.stages import MISSES, STAGES, Stage

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "experiments" / "on_gpu"
TINY_LEAST = 5.0  # seconds below which a stage of a dry run is not begun
# Exit codes of pytest that tell of no failure: passed, and nothing to run.
NO_FAILURE = (0, 5)
FILES = ("summary.md", "summary.json", "log.txt")


class Visit:
    """One run of this program.

    Args:
        minutes: how long it may take.
        out: folder of its results.
        work: folder for all else.
        device: as `postdiff` takes it.
        tiny: a dry run.
    """

    def __init__(self, minutes: float, out: Path, work: Path, device: str, tiny: bool) -> None:
        self.clock, self.device, self.tiny = Clock(minutes), device, tiny
        self.out, self.work = out, work
        self.done: list[dict[str, Any]] = []
        self.experiments: list[str] = []
        for name in ("logs", "profiles", "outputs"):
            (work / name).mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        self.site = work / "site"
        self.environment = {
            **os.environ,
            "POSTDIFF_OUTPUTS": str(work / "outputs"),
            "POSTDIFF_PATH": str(PARTS / "tiny") if tiny else os.environ.get("POSTDIFF_PATH", ""),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.site), str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            **({"OMP_NUM_THREADS": "1"} if tiny else {}),  # threads of tiny tensors only wait for one another
        }

    def say(self, line: str) -> None:
        """Tell it, and how much time is gone, here and in log.txt."""
        message = f"[{self.clock.gone:5.0f} of {self.clock.whole:.0f} s] {line}"
        print(message, flush=True)
        with (self.out / "log.txt").open("a") as stream:
            stream.write(message + "\n")

    def bring(self, folder: Path) -> None:
        """Install what is missing from carried wheels."""
        brought = wheels.install(folder, self.site)
        self.say(f"from wheels: {', '.join(brought) or 'nothing was missing'}")

    def go(self, stages: Sequence[Stage]) -> None:
        """Run the stages in turn, then profile what missed its goal."""
        plan = [*stages, MISSES]
        if self.tiny:
            plan = [dataclasses.replace(stage, least=min(stage.least, TINY_LEAST)) for stage in plan]
        ends = time.strftime("%H:%M:%S", time.localtime(time.time() + self.clock.left))
        self.say(f"{len(stages)} stages, all over by {ends}")
        for place, stage in enumerate(plan):
            budget = self.clock.budget(stage, plan[place + 1 :])
            if budget is None:
                self.note(stage, "left out", 0, None, f"needs {stage.least:.0f} s of {max(self.clock.left, 0):.0f}")
            elif stage.name == MISSES.name:
                self.explain(stage, budget)
            else:
                after = ", ".join(one.name for one in plan[place + 1 :]) or "nothing"
                self.say(f"{stage.name}: {budget:.0f} s at most; then {after}")
                self.measure(stage, budget)

    def measure(self, stage: Stage, budget: float) -> None:
        """Run one stage and note what became of it."""
        if stage.experiment:
            self.experiments.append(stage.experiment)
        ended = processes.run(
            self.command(stage, budget), budget, self.work / "logs" / f"{stage.name}.txt", self.environment,
            lambda line: self.say(f"{stage.name}: {line}"), meanwhile=self.prepare,
        )  # fmt: skip
        whole = ended.code == 0 or (stage.name == "tests" and ended.code in NO_FAILURE)
        state = "stopped" if ended.stopped else "done" if whole else "failed"
        message = stage.worth if whole and not ended.stopped else ended.last
        if stage.name == "tests":
            message = self.tested() or message
        self.note(stage, state, ended.seconds, budget, message)

    def command(self, stage: Stage, budget: float) -> list[str]:
        """What follows `python`."""
        if stage.command:
            filled = {"folder": self.work, "device": self.device, "seconds": int(budget)}
            return [word.format(**filled) for word in stage.command]
        rows = ["--rows", ",".join(stage.rows)] if stage.rows else []
        words = [*stage.words, *(stage.tiny if self.tiny else ()), f"device={self.device}"]
        return [str(PARTS / "child.py"), f"{time.time() + budget:.1f}", "bench", stage.experiment, *rows, *words]

    def explain(self, stage: Stage, budget: float) -> None:
        """Profile rows that missed their goals beside the first row of their batch size, the worst experiment first."""
        begin, missed = self.clock.gone, self.prepare().missed(self.experiments)
        for place, (experiment, rows) in enumerate(missed.items()):
            left = budget - (self.clock.gone - begin)
            if left < stage.least:
                break
            batch = rows[0].rpartition("_")[2]
            tiny = next(one.tiny for one in STAGES if one.experiment == experiment) if self.tiny else ()
            words = [word for word in tiny if not word.startswith("bench.")]
            named = [f"original_{batch}", *(row for row in rows[:3] if row.endswith(f"_{batch}"))]
            file = self.work / "profiles" / f"{experiment}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            own = max(left / (len(missed) - place), stage.least)
            command = [
                str(PARTS / "child.py"), f"{time.time() + own:.1f}", "profile", experiment,
                "--rows", ",".join(dict.fromkeys(named)), "--format", "json",
                f"device={self.device}", "bench.warmup=0", "bench.repeats=3", *words,
            ]  # fmt: skip
            self.say(f"profile of {experiment}: {', '.join(named)}")
            log = self.work / "logs" / f"misses_{place}.txt"
            processes.run(command, own, log, self.environment, self.say, output=file)
        message = ", ".join(missed) or "no goal was missed"
        self.note(stage, "done", self.clock.gone - begin, budget, message)

    def tested(self) -> str:
        """What the tests' report says; empty without one."""
        from xml.etree import ElementTree

        file = self.work / "tests.xml"
        if not file.is_file():
            return ""
        if not (cases := list(ElementTree.parse(file).iter("testcase"))):
            return ""
        bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = sum(case.find("skipped") is not None for case in cases)
        names = [f"{case.get('classname')}.{case.get('name')}" for case in bad]
        found = {"passed": len(cases) - len(bad) - skipped, "skipped": skipped, "failed": names}
        (self.work / "tests.json").write_text(json.dumps(found, indent=1) + "\n")
        return f"{found['passed']} passed, {skipped} skipped, {len(bad)} failed {', '.join(names[:5])}".strip()

    def note(self, stage: Stage, state: str, seconds: float, budget: float | None, message: str) -> None:
        """Keep what became of a stage, and all that is known by now."""
        self.say(f"{stage.name}: {state} after {seconds:.0f} s: {message}")
        self.done.append({"name": stage.name, "state": state, "seconds": seconds, "budget": budget, "told": message})
        about = {"minutes": self.clock.whole / 60, "seconds": self.clock.gone, "tiny": self.tiny}
        self.prepare().write(self.out, self.work / "profiles", self.done, about, self.experiments)
        self.pack()

    def prepare(self) -> Any:
        """The module that writes the summary. It loads torch, best done while a stage's process does the same."""
        for name in ("POSTDIFF_OUTPUTS", "POSTDIFF_PATH", "HF_HUB_OFFLINE"):
            os.environ[name] = self.environment[name]
        for folder in (ROOT, self.site):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
        from on_gpu import summary

        return summary

    def pack(self) -> None:
        """All results in one file, written whole."""
        made = self.out / "records.zip.part"
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("outputs", "logs", "profiles"):
                for file in sorted((self.work / name).rglob("*")):
                    if file.is_file() and file.suffix in (".json", ".txt", ".png"):
                        archive.write(file, file.relative_to(self.work))
            for file in (*(self.out / name for name in FILES), self.work / "tests.json"):
                if file.is_file():
                    archive.write(file, file.name)
        made.replace(self.out / "records.zip")


def chosen(names: str | None) -> list[Stage]:
    """The stages of these names, in the order of their worth; all if None."""
    if names is None:
        return list(STAGES)
    wanted, known = names.split(","), [stage.name for stage in STAGES]
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"--stages: there is no stage '{unknown[0]}'; there are {', '.join(known)}")
    return [stage for stage in STAGES if stage.name in wanted]


def main(words: Sequence[str] | None = None) -> int:
    """Spend the minutes; gives 0, or 1 if a stage failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="how long all of it may take")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where results go")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where all else goes; FOLDER of --out if omitted")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--tiny", action="store_true", help="a dry run: models of a few layers")
    parser.add_argument("--stages", metavar="A,B", help="these alone")
    parser.add_argument("--wheels", type=Path, metavar="WHEELS", help="packages for a machine without a network")
    given = parser.parse_args(words)
    stages = chosen(given.stages)
    out, work = given.out.resolve(), (given.work or given.out).resolve()
    visit = Visit(given.minutes, out, work, given.device, given.tiny)
    if given.wheels is not None:
        visit.bring(given.wheels)
    if lacking := wheels.missing(visit.site):
        raise SystemExit(f"this Python lacks {', '.join(lacking)}; install them, or carry wheels and name --wheels")
    visit.go(stages)
    visit.say(f"wrote {visit.out / 'summary.md'}")
    return 1 if any(one["state"] == "failed" for one in visit.done) else 0


if __name__ == "__main__":
    sys.exit(main())
