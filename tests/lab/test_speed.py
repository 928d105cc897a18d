"""Other code beside ours: the same images, everything as before, and its times in record and table."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from postdiff import accelerate
from postdiff.cli import main
from postdiff.cost import latency
from postdiff.cost.latency import TimeIsUp
from postdiff.engine.errors import UsageError
from postdiff.lab.bench import reference_implementations, speed
from postdiff.lab.bench.reference_implementations import reference_of
from postdiff.lab.config import experiment
from postdiff.lab.config.schema import BenchConfig
from postdiff.lab.macs import row_macs
from postdiff.lab.records.record import Record
from postdiff.lab.tables.rows import flat_rows
from postdiff.methods import FORA, DeepCache, PyramidAttentionBroadcast, ToMe
from tests.support.snapshot import snapshot
from tests.support.tiny import build

pytestmark = pytest.mark.slow


def plan(*methods, stages=()):
    return SimpleNamespace(methods=methods, stages=stages)


WITH_REFERENCE = [
    ("sd_deep", [], "diffusers"),
    ("sd_deep", [DeepCache(interval=3, branch=1)], "DeepCache 0.1.1"),
    ("sd_deep_euler", [DeepCache(interval=2, branch=2, numbering="paper")], "DeepCache 0.1.1"),
    ("sd_ddim", [ToMe(seed=3)], "tomesd 0.1.3"),
    ("dit", [ToMe(rand=False)], "tomesd 0.1.3"),
    ("sd", [PyramidAttentionBroadcast(spatial=2, cross=3, window=[50, 900])], "hooks of diffusers"),
    ("pixart_alpha", [PyramidAttentionBroadcast(spatial=3, cross=3, window=[50, 900])], "hooks of diffusers"),
]


@pytest.mark.parametrize(("name", "methods", "package"), WITH_REFERENCE, ids=lambda value: str(value)[:20])
def test_a_reference_implementation_makes_the_same_images_and_leaves_no_trace(name, methods, package):
    one = build(name)
    plain = one.call(one.pipe)  # a pipeline notes down its first call
    before = snapshot(one.pipe)
    reference = reference_of(plan(*methods), one.pipe)
    assert reference.name.startswith(package)
    for _ in range(2):  # nothing is carried over
        with reference.ready():
            of_reference = one.call(one.pipe)
        assert torch.equal(of_reference, one.call(accelerate(one.pipe, methods)))
    assert torch.equal(of_reference, plain) != bool(methods)
    assert torch.equal(one.call(one.pipe), plain)
    assert snapshot(one.pipe) == before


@pytest.mark.parametrize(
    "methods",
    [[FORA()], [DeepCache(), ToMe()], [DeepCache(restarts=[3])], [DeepCache(schedule="nonuniform")]],
    ids=str,
)
def test_where_nobody_does_the_same(case, methods):
    assert reference_of(plan(*methods), case("sd_deep").pipe) is None


def test_the_helper_counts_on_two_layers_a_block(case):
    assert reference_of(plan(DeepCache()), case("sd_deep").pipe) is not None
    assert reference_of(plan(DeepCache()), case("sd").pipe) is None
    assert reference_of(plan(DeepCache(), stages=("a", "b")), case("sd_deep").pipe) is None


def test_a_missing_package_is_named(case, monkeypatch):
    error = PackageNotFoundError("tomesd")
    monkeypatch.setattr(reference_implementations, "version", lambda name: (_ for _ in ()).throw(error))
    with pytest.raises(UsageError, match=r"needs tomesd, .*postdiff\[official\]"):
        reference_of(plan(ToMe()), case("sd").pipe)


def test_bench_from_the_command_line(outputs, capsys):
    words = ["bench", "demo", "--rows", "steps_20,deepcache", "steps=2", "bench.repeats=3", "count=2", "seeds=[0]"]
    assert main([*words, "bench.official=true", "--format", "json"]) == 0
    plain, cached = json.loads(capsys.readouterr().out)
    assert plain["official"].startswith("diffusers") and plain["official_difference"] == 0
    assert plain["official_ratio_q25"] <= plain["official_ratio"] <= plain["official_ratio_q75"]
    assert plain["speedup"] == plain["loop_speedup"] == plain["ideal"] == plain["realised"] == 1
    assert 0 < plain["loop_s"] < plain["time_s"] and plain["images_per_s"] == pytest.approx(1 / plain["time_s"])
    assert "official" not in cached and cached["ideal"] > 1
    assert cached["realised"] == pytest.approx(cached["loop_speedup"] / cached["ideal"])
    record = json.loads((outputs / "records" / "demo" / "steps_20.speed.json").read_text())
    assert len(record["latency"]["rounds_s"]) == len(record["latency"]["loop_rounds_s"]) == 3
    assert record["latency"]["environment"]["threads"] >= 1
    assert main(["bench", *words[1:]]) == 0
    table = capsys.readouterr().out
    assert "MAC efficiency" in table and "beside" not in table


@pytest.fixture
def two_sizes(outputs, monkeypatch):
    """Words that time two settings of a tiny SD V1.5 with random weights, each at two batch sizes."""
    monkeypatch.setenv("POSTDIFF_PATH", str(Path(__file__).parents[2] / "experiments" / "on_gpu" / "tiny"))
    rows = [f"{name}_b{batch}" for name in ("original", "deepcache") for batch in (1, 8)]
    tiny = ("model=tiny_sd15", "dtype=float32", "height=32", "width=32", "steps=2", "bench.official=false")
    return ["bench", "speed/sd15_768", "--rows", ",".join(rows), *tiny, "bench.warmup=0", "bench.repeats=2"]


def kept(outputs, row):
    return Record.read(outputs / "records" / "speed" / "sd15_768" / f"{row}.speed.json")


def test_batch_sizes_are_timed_one_after_the_other(outputs, two_sizes, command, monkeypatch):
    """Nobody compares them; their work is counted once."""
    rounds, counted = [], []
    measure, count = latency.measure, row_macs.count
    monkeypatch.setattr(latency, "measure", lambda calls, **how: rounds.append(list(calls)) or measure(calls, **how))
    monkeypatch.setattr(row_macs, "count", lambda plan, *more: counted.append(plan.name) or count(plan, *more))
    assert command(*two_sizes)[0] == 0
    assert rounds == [["original_b1", "deepcache_b1"], ["original_b8", "deepcache_b8"]]
    assert counted == ["original_b1", "deepcache_b1"]
    assert kept(outputs, "deepcache_b8").macs == kept(outputs, "deepcache_b1").macs
    rows = flat_rows(experiment.load("speed/sd15_768"), ("speed",))
    assert [row["speedup"] > 0 for row in rows if row.get("time_s")] == [True] * 4
    assert not any("not timed together" in row["notes"] for row in rows)


def test_what_is_measured_in_time_is_kept_and_marked(outputs, two_sizes, command):
    code, table, _ = command(*two_sizes, "bench.seconds=100")
    assert code == 0 and "| Rounds" in table.replace("Rounds", "| Rounds", 1)
    assert "rounds: as many as were whole in 100 s for all rows" in table
    record = kept(outputs, "original_b8")
    assert (record.latency["seconds"], record.latency["repeats"], record.n_asked, record.n_done) == (100, 2, 2, 2)
    assert record.latency["finite"] is True


def test_a_batch_size_that_takes_too_long_leaves_the_others(outputs, two_sizes, command, monkeypatch):
    measure = latency.measure

    def timed(calls, **how):
        if "original_b1" in calls:
            raise TimeIsUp(3.0, 40)
        return measure(calls, **how)

    monkeypatch.setattr(latency, "measure", timed)
    code, _, err = command(*two_sizes, "bench.seconds=100")
    [line] = [line for line in err.splitlines() if line.startswith("postdiff: error")]
    assert code == 2 and "row 'original_b1' and the 1 in turns with it: nothing was measured" in line
    assert "one round does not end in 3 s; use bench.seconds=" in line
    assert int(line.partition("bench.seconds=")[2].partition(",")[0]) in (80, 81, 82), "40 s for each batch size"
    assert not (outputs / "records/speed/sd15_768/original_b1.speed.json").exists()
    assert kept(outputs, "original_b8").full


@pytest.mark.parametrize("verb", ["bench", "profile"])
def test_too_little_time_is_reported_in_one_line(outputs, two_sizes, refused, verb):
    line = refused(verb, *two_sizes[1:], "bench.seconds=0.001")
    assert "nothing was measured, since one round does not end in 0.0" in line and "fewer --rows" in line
    assert not (outputs / "records").exists()


def test_a_time_limit_belongs_to_the_identity_only_where_there_is_one():
    assert BenchConfig().described() == {"repeats": 5, "warmup": 1, "batch_size": 1}
    assert BenchConfig(seconds=3.0).described()["seconds"] == 3.0


def test_images_that_are_no_numbers_are_timed_and_named(outputs, two_sizes, command, monkeypatch):
    monkeypatch.setattr(speed, "_images", lambda made: torch.full((1,), float("nan")))
    code, table, _ = command(*two_sizes)
    assert code == 0 and "images hold NaN or infinity, which does not change the time of: 20 steps, batch 1" in table
    assert kept(outputs, "original_b1").latency["finite"] is False
