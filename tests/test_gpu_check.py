"""The program for the first minutes on a GPU: its plan, its time, what it leaves behind, and a dry run of all of it."""

import dataclasses
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest

from postdiff.lab.config import experiment
from postdiff.lab.config.layers import from_words
from postdiff.lab.plan.plan import plan_rows

pytestmark = pytest.mark.slow

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TINY = EXPERIMENTS / "on_gpu" / "tiny"


@pytest.fixture
def check(monkeypatch):
    """The program as a module; the environment is afterwards as it was."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    for name in ("POSTDIFF_OUTPUTS", "POSTDIFF_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    import gpu_check

    yield gpu_check
    for name in [name for name in sys.modules if name.partition(".")[0] in ("gpu_check", "on_gpu")]:
        del sys.modules[name]


def stage(check, name, code, share=1.0, least=0.5):
    """One that runs a line of Python."""
    return check.Stage(name, f"what {name} tells", share, least, command=("-c", code))


def message(out):
    """{stage: state} of the summary."""
    return {one["name"]: one["state"] for one in json.loads((out / "summary.json").read_text())["stages"]}


STAGES = ("sd15_768", "sd15_768_50_steps", "sd15_512", "sdxl", "compiled", "pixart", "flux")
STAGES += ("sd15_512_50_steps", "sdxl_50_steps")


def test_all_stages_are_looked_at(check):
    assert [one.name for one in check.STAGES] == ["tests", *STAGES]


@pytest.mark.parametrize("tiny", [False, True], ids=["real", "tiny"])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_an_experiment_that_can_be_prepared(check, monkeypatch, name, tiny):
    monkeypatch.setenv("POSTDIFF_PATH", str(TINY) if tiny else "")
    [one] = [one for one in check.STAGES if one.name == name]
    words = [*one.words, *(one.tiny if tiny else ()), "device=cpu"]
    plans = plan_rows(experiment.load(one.experiment, from_words(words)).select(one.rows or None))
    assert {plan.config.weights for plan in plans} == {"random"}
    assert all(plan.config.bench.official for plan in plans)
    first = [plan.name for plan in plans if not plan.methods and plan.name.startswith("original")]
    assert first == [f"original_b{size}" for size in dict.fromkeys(plan.config.bench.batch_size for plan in plans)]
    assert one.least <= 60 and one.worth


def test_a_dry_run(check, tmp_path):
    """All that a visit does, on tiny networks; most of the time goes by while two processes load torch."""
    begin = time.monotonic()
    words = [
        "--minutes",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
        "--tiny",
        "--device",
        "cpu",
        "--stages",
        "flux",
    ]
    assert check.main(words) == 0
    assert time.monotonic() - begin < 1.1 * 120
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == ["log.txt", "records.zip", "summary.json", "summary.md"]
    assert message(out)["flux"] == "done"
    summary = (out / "summary.md").read_text()
    assert summary.startswith("# Dry run, not on a GPU")
    assert "| mixed resolution, batch 8 |" in summary and "Again: `postdiff bench speed/flux_blocks`" in summary
    rows = {row["row"]: row for row in json.loads((out / "summary.json").read_text())["rows"] if row.get("time_s")}
    assert rows["original_b1"]["official"].startswith("diffusers") and rows["original_b1"]["time_limit_s"] > 0
    assert rows["fora_b8"]["realised"] == pytest.approx(rows["fora_b8"]["loop_speedup"] / rows["fora_b8"]["ideal"])
    assert all(row["finite"] for row in rows.values()) and len(rows) == 8
    kept = zipfile.ZipFile(out / "records.zip").namelist()
    assert "outputs/records/speed/flux_blocks/fora_b8.speed.json" in kept and "summary.md" in kept


@pytest.mark.parametrize("last", ["pass", "import time; time.sleep(100)", "stubborn"])
def test_the_minutes_are_kept(check, tmp_path, last):
    """A stage that ends early hands its time on; one that overruns is ended, even if it will not hear of it."""
    if last == "stubborn":
        last = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(100)"
    visit = check.Visit(0.1, tmp_path, tmp_path, "cpu", tiny=True)
    visit.prepare()  # torch is loaded while a stage loads it, which these do not
    visit.clock.begin = begin = time.monotonic()
    visit.go([stage(check, "early", "print('so')", least=2), stage(check, "late", last, share=1000.0)])
    took, whole = time.monotonic() - begin, 6.0
    assert took < 1.1 * whole
    early, late = visit.done[:2]
    assert early["state"] == "done" and late["budget"] > 0.8 * whole
    if last == "pass":
        assert took < whole / 2 and late["state"] == "done"
    else:
        assert took > 0.9 * whole and late["state"] == "stopped"
    assert message(tmp_path) == {one["name"]: one["state"] for one in visit.done}


def test_stages_that_no_longer_fit_are_named(check, tmp_path):
    visit = check.Visit(0.05, tmp_path, tmp_path, "cpu", tiny=False)
    visit.go([stage(check, "long", "pass", least=100), stage(check, "short", "pass", least=0.1)])
    assert message(tmp_path) == {"long": "left out", "short": "done", "misses": "left out"}
    assert "needs 100 s of" in (tmp_path / "summary.md").read_text()


def test_a_stage_that_fails_says_why_and_the_others_go_on(check, tmp_path, monkeypatch):
    visit = check.Visit(0.1, tmp_path, tmp_path, "cpu", tiny=True)
    visit.go([stage(check, "bad", "raise SystemExit('no such thing')"), stage(check, "good", "pass")])
    assert message(tmp_path) == {"bad": "failed", "good": "done", "misses": "done"}
    assert visit.done[0]["told"] == "no such thing"


def test_whatever_ends_it_nothing_earlier_is_lost(check, tmp_path, monkeypatch):
    visit, run = check.Visit(1, tmp_path, tmp_path, "cpu", tiny=True), check.processes.run
    left = tmp_path / "outputs" / "records" / "mine.json"
    left.parent.mkdir()
    code = f"open({str(left)!r}, 'w').write('[]')"

    def second_is_the_end(command, *more, **options):
        if "gone" in command[-1]:
            raise KeyboardInterrupt
        return run(command, *more, **options)

    monkeypatch.setattr(check.processes, "run", second_is_the_end)
    with pytest.raises(KeyboardInterrupt):
        visit.go([stage(check, "first", code), stage(check, "second", "gone")])
    assert message(tmp_path) == {"first": "done"}
    assert "outputs/records/mine.json" in zipfile.ZipFile(tmp_path / "records.zip").namelist()


def test_the_process_of_a_stage_ends_with_whoever_waits_for_it(check, tmp_path):
    log = tmp_path / "log"

    def interrupt():
        raise KeyboardInterrupt

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    with pytest.raises(KeyboardInterrupt):
        check.processes.run(("-c", code), 50, log, os.environ, print, lambda: (_wait_for(log), interrupt()))
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def _wait_for(log):
    while not log.read_text().strip():
        time.sleep(0.02)


def test_shares_of_the_time(check):
    clock = check.Clock(10)
    first, second = stage(check, "a", "", share=3), stage(check, "b", "", share=1, least=500)
    assert clock.budget(first, [second]) == pytest.approx(0.75 * (600 - 12), rel=0.01)
    assert clock.budget(second, [first]) == 500, "no less than it needs"
    clock.begin -= 200
    assert clock.budget(second, []) is None
    assert clock.budget(first, []) == pytest.approx(388, rel=0.01)


def test_tests_are_reported_by_what_they_say(check, tmp_path):
    visit = check.Visit(1, tmp_path, tmp_path, "cpu", tiny=True)
    assert visit.tested() == ""
    cases = '<testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure/></testcase>'
    skipped = '<testcase classname="a" name="later"><skipped/></testcase>'
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{cases}{skipped}</testsuite></testsuites>")
    assert visit.tested() == "1 passed, 1 skipped, 1 failed a.bad"
    assert json.loads((tmp_path / "tests.json").read_text()) == {"passed": 1, "skipped": 1, "failed": ["a.bad"]}


def test_goals_beside_figures(check):
    from on_gpu.goals import verdicts

    def row(name, **figures):
        return {"row": name, "label": name, **figures}

    rows = [
        ("speed/sd15_768", row("original_b1", realised=1.0, official_loop_ratio=0.985)),
        ("speed/sd15_768", row("deepcache_b8", realised=0.94, official_ratio_q75=1.0, official_ratio=0.99)),
        ("speed/sd15_768", row("postdiff_cut_b1", realised=0.9, loop_speedup=2.56)),
        ("speed/sd15_768", row("stacked_b1", realised=None, loop_speedup=4.0)),
        ("speed/sd15_ddim50", row("parallel_b1", loop_speedup=1.7)),
        ("speed/sdxl_1024", row("postdiff_cut_b1", loop_speedup=1.0)),
    ]
    found = {(one.row, one.goal.column): one.met for one in verdicts(rows)}
    assert found == {
        ("original_b1", "official_loop_ratio"): False,
        ("deepcache_b8", "realised"): False,
        ("deepcache_b8", "official_ratio_q75"): True,
        ("postdiff_cut_b1", "realised"): True,
        ("postdiff_cut_b1", "loop_speedup"): False,
        ("stacked_b1", "loop_speedup"): True,
        ("parallel_b1", "loop_speedup"): True,
    }


def wheel(folder, name, version):
    """A wheel of one module."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "HERE = True\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return file


def test_wheels_that_are_lacking_are_installed_beside(check, tmp_path):
    carried, site = tmp_path / "wheels", tmp_path / "site"
    carried.mkdir()
    with pytest.raises(SystemExit, match=r"no \.whl files"):
        check.wheels.install(carried, site)
    wheel(carried, "carried_along", "1.2")
    wheel(carried, "tqdm", check.wheels._installed("tqdm"))
    assert check.wheels.install(carried, site) == ["carried-along 1.2"]
    assert (site / "carried_along.py").is_file() and not (site / "tqdm.py").exists()


def test_packages_that_are_missing_are_named(check, tmp_path, monkeypatch):
    assert check.wheels.missing(tmp_path) == []
    found = check.wheels.metadata.distributions

    def without(path):
        return [one for one in found(path=path) if one.name not in ("diffusers", "tomesd", "wandb")]

    monkeypatch.setattr(check.wheels.metadata, "distributions", without)
    assert check.wheels.missing(tmp_path) == ["diffusers", "tomesd"], "wandb is not needed for speed"
    with pytest.raises(SystemExit, match="lacks diffusers, tomesd; install them, or carry wheels"):
        check.main(["--minutes", "1", "--out", str(tmp_path)])


def test_misses_are_profiled_and_reported(check, tmp_path, monkeypatch):
    """The rows of one batch size beside their first, in the time that is left."""
    visit = check.Visit(1, tmp_path, tmp_path, "cpu", tiny=True)
    summary = visit.prepare()
    monkeypatch.setattr(summary, "missed", lambda names: {"speed/sd15_768": ["stacked_b8", "deepcache_b1", "mixed_b8"]})
    commands = []

    def run(command, seconds, log, environment, say, output):
        commands.append(command)
        lost = {"whole call": 9.0, "resnets": 0.5, "driver": 0.25, "solver": -1.0}
        row = {"row": "stacked_b8", "seconds": 1.0}
        output.write_text(json.dumps([{**row, "place": place, "lost_s": one} for place, one in lost.items()]))

    monkeypatch.setattr(check.processes, "run", run)
    visit.explain(dataclasses.replace(check.MISSES, least=1), 30)
    [command] = commands
    assert command[2:4] == ["profile", "speed/sd15_768"] and "model=tiny_sd15" in command
    assert command[command.index("--rows") + 1] == "original_b8,stacked_b8,mixed_b8"
    assert summary._lost(tmp_path / "profiles") == {
        ("speed/sd15_768", "stacked_b8"): ["resnets loses 500.00 ms", "driver loses 250.00 ms"]
    }
