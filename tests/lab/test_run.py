"""`postdiff run` from start to end, on a tiny model and on the shipped one."""

import csv
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from postdiff.lab import row, run
from postdiff.lab.bench import speed
from postdiff.lab.config import experiment
from postdiff.lab.data.samples import Shard
from postdiff.lab.evaluation import Evaluation
from postdiff.lab.generate import loop as generate
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.loggers.wandb_reader import offline_runs
from postdiff.lab.pipelines import models
from postdiff.lab.plan import plan
from postdiff.lab.records import stored
from postdiff.lab.records.record import Record


def read(outputs, row, kind=""):
    return Record.read(outputs / "records" / "tiny" / f"{row}{kind}.json")


@pytest.fixture
def counted(monkeypatch):
    """How many images each row generated."""
    drawn = {}
    call = Sampler.__call__

    def counting(self, samples):
        drawn[self.plan.name] = drawn.get(self.plan.name, 0) + len(samples)
        return call(self, samples)

    monkeypatch.setattr(Sampler, "__call__", counting)
    return drawn


def test_a_run_leaves_records_images_and_a_table(tiny, outputs, command, counted):
    code, out, _ = command("run", "tiny")
    assert code == 0
    assert counted == {"reference": 6, "plain": 6, "cached": 6}
    assert "Plain" in out and "Cached" in out and str(outputs / "grids" / "tiny.png") in out
    assert max(map(len, out.splitlines())) <= 120 + len(str(outputs))
    plain, cached = read(outputs, "plain"), read(outputs, "cached")
    assert plain.full and plain.n_done == 6 and plain.seeds == [0, 1]
    assert set(plain.metrics) == set(plain.config["metrics"])
    assert plain.metrics["paired_psnr"].identity["reference"] == plain.references == cached.references
    assert all(value.spread is not None and len(value.per_seed) == 2 for value in plain.metrics.values())
    assert plain.counts["network calls"] == 4 and cached.counts["deepcache hits"] > 0
    assert cached.macs["denoiser"]["dense"] < plain.macs["denoiser"]["dense"] <= plain.macs["denoiser"]["all"]
    times = [read(outputs, row, ".speed") for row in ("plain", "cached")]
    assert times[0].latency["session"] == times[1].latency["session"] and times[0].latency["repeats"] == 2
    with (outputs / "records" / "tiny" / "cached.csv").open() as stream:
        images = list(csv.DictReader(stream))
    assert len(images) == 6 and {image["seed"] for image in images} == {"0", "1"}
    assert len({image["sha256"] for image in images}) == 6
    mean = sum(float(image["paired_psnr"]) for image in images) / 6
    assert mean == pytest.approx(cached.metrics["paired_psnr"].value)


def test_the_second_run_does_nothing_and_fresh_does_all(tiny, outputs, command, counted):
    command("run", "tiny", "bench.repeats=0")
    counted.clear()
    code, out, err = command("run", "tiny", "bench.repeats=0")
    assert code == 0 and counted == {} and err.count("done already") == 2 and "Plain" in out
    command("run", "tiny", "bench.repeats=0", "--rows", "cached", "--fresh")
    assert counted == {"cached": 6}
    counted.clear()
    command("run", "tiny", "bench.repeats=0", "steps=3", "--rows", "plain")
    assert counted == {"plain": 6}, "other settings are another run, with the same references"


def test_rows_of_equal_settings_share_their_images(tiny, outputs, command, counted):
    command("run", "tiny", "bench.repeats=0", "--rows", "plain")
    counted.clear()
    code, _, _ = command("run", "tiny", "bench.repeats=0", "methods=[]", "--rows", "cached")
    assert code == 0 and counted == {}, "a row with the settings of another generated its images again"
    assert read(outputs, "cached").images == read(outputs, "plain").images


def test_an_interrupted_run_goes_on(tiny, outputs, command, counted, monkeypatch):
    write = stored.ImageFolder.write

    def interrupted(self, samples, images):
        write(self, samples, images)
        if "cached" in counted:
            raise KeyboardInterrupt

    monkeypatch.setattr(stored.ImageFolder, "write", interrupted)
    code, _, err = command("run", "tiny", "bench.repeats=0")
    assert code == 130 and err.splitlines()[-1].startswith("postdiff: interrupted")
    assert read(outputs, "plain").full and not (outputs / "records" / "tiny" / "cached.json").exists()
    monkeypatch.setattr(stored.ImageFolder, "write", write)
    assert counted["cached"] == 2
    code, _, err = command("run", "tiny", "bench.repeats=0")
    assert code == 0 and counted["cached"] == 6, "the two finished images were made again"
    assert read(outputs, "cached").full


def test_parts_add_up(tiny, outputs, command, counted):
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=0")
    code, out, err = command(*words, "--shard", "1/2")
    part = read(outputs, "plain")
    # Parts are of whole batches: two of two images here, one of two there.
    assert code == 0 and not part.full and part.n_done == 4 and "2 of 6" in err and "partial" in out
    command(*words, "--shard", "2/2")
    both = read(outputs, "plain")
    assert both.full and counted == {"reference": 6, "plain": 6}
    assert command(*words)[0] == 0 and counted == {"reference": 6, "plain": 6}
    command(*words, "--fresh")
    whole = read(outputs, "plain")
    assert both.metrics == whole.metrics


def test_a_late_part_does_not_undo_a_full_record(tiny, outputs, command):
    words = ("run", "tiny", "--rows", "plain", "bench.repeats=0")
    command(*words)
    [one] = plan.plan_rows(experiment.load("tiny", {"bench": {"repeats": 0}}).select(["plain"]))
    stored.images_of(one).file(one.samples[-1]).unlink()
    row.measure(one, run.Pipelines(), Shard(1, 6))
    assert read(outputs, "plain").full


@pytest.mark.parametrize("batch_size", [1, 4])
def test_numbers_do_not_depend_on_the_batch(tiny, outputs, command, batch_size):
    command("run", "tiny", "--rows", "cached", "bench.repeats=0")
    two = read(outputs, "cached").metrics
    command("run", "tiny", "--rows", "cached", "bench.repeats=0", f"batch_size={batch_size}", "--fresh")
    for name, value in read(outputs, "cached").metrics.items():
        # The references are generated in these batches too, which moves a distance that is nearly 0 in its third digit.
        assert value.value == pytest.approx(two[name].value, rel=1e-3, abs=1e-7), name


def test_no_methods_and_as_many_steps_is_the_reference_itself(tiny, outputs, command):
    command("run", "tiny", "--rows", "plain", "steps=6", "bench.repeats=0")
    found = read(outputs, "plain").metrics
    assert found["paired_psnr"].value == 100 and found["paired_psnr"].spread == 0
    assert found["paired_ssim"].value == pytest.approx(1)
    assert found["paired_feature_distance"].value == pytest.approx(0, abs=1e-6)


def test_images_with_nan_are_refused(tiny, outputs, refused, monkeypatch):
    load = models.load

    def poisoned(*given):
        pipe = load(*given)
        torch.nn.init.constant_(pipe.vae.decoder.conv_out.bias, float("nan"))
        return pipe

    monkeypatch.setattr(models, "load", poisoned)
    line = refused("run", "tiny", "metrics=[emoji_text_score]")
    assert "row 'plain'" in line and "image 0 ('a heart', seed 0) holds NaN" in line


def test_settings_that_the_pipeline_refuses_are_reported(tiny, refused):
    assert "divisible by 8" in refused("run", "tiny", "height=33")


def test_rows_may_use_different_schedulers(tiny, outputs, command):
    command("run", "tiny", "--rows", "plain", "bench.repeats=0", "scheduler=ddim")
    ddim = read(outputs, "plain")
    command("run", "tiny", "--rows", "plain", "bench.repeats=0", "scheduler=euler")
    assert ddim.run_id != read(outputs, "plain").run_id
    assert ddim.config["scheduler"]["name"] == "ddim" and list(ddim.changed) == ["scheduler", "bench"]


def test_bench_measures_speed_alone(tiny, outputs, command, counted):
    code, out, _ = command("bench", "tiny", "bench.repeats=1", "bench.batch_size=4")
    assert code == 0 and "batch size 4" in out and "MAC efficiency" in out and "PSNR" not in out
    assert not counted and not (outputs / "records" / "tiny" / "plain.json").exists()


def test_rows_are_timed_together_again_when_one_is_missing(tiny, outputs, command, monkeypatch):
    command("run", "tiny", "--rows", "plain")
    alone = read(outputs, "plain", ".speed").latency["session"]
    times = []
    measure = speed.latency.measure
    spied = lambda calls, **kw: times.append(sorted(calls)) or measure(calls, **kw)  # noqa: E731
    monkeypatch.setattr(speed.latency, "measure", spied)
    command("run", "tiny")
    command("run", "tiny")
    assert times == [["cached", "plain"]]
    assert read(outputs, "plain", ".speed").latency["session"] == read(outputs, "cached", ".speed").latency["session"]
    assert alone is not None


def test_wandb_offline_writes_a_run(tiny, outputs, command):
    pytest.importorskip("wandb")
    code, _, err = command("run", "tiny", "--rows", "plain", "bench.repeats=0", "wandb=offline", "count=2")
    assert code == 0, err
    [logged] = offline_runs()
    record = read(outputs, "plain")
    assert (logged.name, logged.group) == ("tiny/plain", "tiny")
    assert logged.config["run_id"] == record.run_id and logged.config["steps"] == 4
    for name, value in record.metrics.items():
        assert logged.summary[name] == pytest.approx(value.value)


def test_nothing_but_json_on_stdout(tiny, outputs, command):
    command("run", "tiny", "bench.repeats=1")
    rows = json.loads(command("table", "tiny", "--format", "json")[1])
    assert [row["row"] for row in rows] == ["plain", "cached"]
    assert rows[0]["gap_paired_psnr"] == pytest.approx(rows[0]["paired_psnr"] - 20)
    assert rows[0]["speedup"] == 1 and rows[1]["macs_saving"] > 1
    entries = json.loads(command("list", "--format", "json")[1])
    assert {"kind", "name", "summary"} == set(entries[0])
    kinds = {
        "models",
        "methods",
        "experiments",
        "plans",
        "data",
        "metrics",
        "schedulers",
        "conditions",
        "loggers",
        "families",
    }
    assert {entry["kind"] for entry in entries} == kinds


def test_memory_does_not_grow(tiny, outputs, command, monkeypatch):
    """Over 200 images, while they are generated and while they are measured."""
    used = {"generated": [], "measured": []}

    def noted(kind, act):
        def around(*given):
            found = act(*given)
            used[kind].append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
            return found

        return around

    monkeypatch.setattr(generate, "generate_batch", noted("generated", generate.generate_batch))
    monkeypatch.setattr(Evaluation, "test_step", noted("measured", Evaluation.test_step))
    seeds = f"seeds={list(range(40))}".replace(" ", "")
    words = ("count=5", seeds, "batch_size=5", "steps=1", "metrics=[emoji_text_score]", "bench.repeats=0")
    code, _, err = command("run", "tiny", "--rows", "plain", *words)
    assert code == 0 and [len(sizes) for sizes in used.values()] == [40, 40], err
    for kind, sizes in used.items():
        x, y = 5.0 * np.arange(len(sizes)), np.array(sizes, dtype=float)
        slope = np.polyfit(x[10:], y[10:], 1)[0]
        assert slope < 20_000, f"{slope:.0f} bytes an image while images are {kind}"


def test_the_shipped_model_runs(outputs, command):
    words = ["count=2", "seeds=[0]", "steps=4", "reference_steps=5", "bench.repeats=0"]
    code, out, err = command("run", "--rows", "steps_20,postdiff", *words)
    assert code == 0, err
    assert "PostDiff" in out and (outputs / "records" / "demo" / "postdiff.json").is_file()
