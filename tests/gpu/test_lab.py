"""On a GPU: a row of the demo from its command to records, images and times."""

import numpy as np
import pytest
import torch
from PIL import Image

from postdiff import cli
from postdiff.cost.latency import Timed, measure
from postdiff.lab.config.schema import RunConfig, TrainerConfig
from postdiff.lab.devices import placement, provenance
from postdiff.lab.records.record import Record
from tests.gpu.placed import HALF

pytestmark = pytest.mark.gpu

WORDS = ("run", "demo", "--rows", "postdiff", "steps=6", "reference_steps=6", "count=2", "seeds=[0]", "batch_size=2")
GREYS = 4  # of 255, that rounding may move a pixel


def test_placement_names_the_device(device):
    wanted = "gpu" if device.type == "cuda" else "cpu"
    assert placement.device(RunConfig(device=device.type)) == device.type
    assert placement.device(RunConfig(trainer=TrainerConfig(accelerator=wanted))) == device.type
    assert placement.device(RunConfig()) == ("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        assert placement.device(RunConfig(device="cuda:0")) == "cuda:0"


def drawn(folder, monkeypatch, *words):
    """The row's record, that of its speed, and its images by place."""
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(folder))
    assert cli.main([*WORDS, *words]) == 0
    records = folder / "records" / "demo"
    record = Record.read(records / "postdiff.json")
    own = folder / "images" / record.images
    images = {file.relative_to(own): np.asarray(Image.open(file)) for file in sorted(own.rglob("[0-9]*.png"))}
    return record, records / "postdiff.speed.json", images


def test_a_row_of_the_demo(device, tmp_path, monkeypatch):
    by = "gpu" if device.type == "cuda" else "cpu"
    timed = ("bench.repeats=2", "bench.warmup=1")
    record, speed, images = drawn(tmp_path / "one", monkeypatch, f"device={device.type}", *timed)
    assert record.full and record.device == provenance.device_name(device.type)
    assert len(images) == 2 and all(np.isfinite(metric.value) for metric in record.metrics.values())
    times = Record.read(speed).latency
    assert 0 < times["loop"]["median_s"] <= 1.05 * times["median_s"] and times["peak_memory_mb"] > 1
    again, _, same = drawn(tmp_path / "again", monkeypatch, f"trainer.accelerator={by}", "bench.repeats=0")
    assert again.run_id == record.run_id
    assert all(np.array_equal(same[place], image) for place, image in images.items())
    _, _, cpus = drawn(tmp_path / "cpu", monkeypatch, "device=cpu", "bench.repeats=0")
    for place, image in images.items():
        away = np.abs(image.astype(int) - cpus[place].astype(int)).max()
        assert away <= GREYS, f"image {place} is {away} grey levels from the CPU's"


def test_times_of_whole_and_loop(on):
    one, _ = on("sd", HALF)
    timed = Timed(lambda: one.call(one.pipe), loops=[(one.pipe, one.pipe.scheduler)])
    found = measure({"one": timed}, repeats=3)["one"]
    for whole, loop in zip(found.whole, found.loop, strict=True):
        assert 0.2 * whole < loop <= 1.05 * whole
