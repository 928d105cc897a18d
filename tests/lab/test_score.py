"""Images are made once and scored often."""

import csv
import dataclasses

import pytest

from postdiff.lab.pipelines import models
from tests.lab import runs

ROW = ("--rows", "cached", "bench.repeats=0")


@pytest.fixture
def no_pipeline(monkeypatch):
    """Call it, and loading a pipeline fails the test."""
    return lambda: monkeypatch.setattr(models, "load", lambda *_: pytest.fail("a pipeline was loaded"))


def test_scores_of_stored_images_are_those_of_the_run(tiny, outputs, command, no_pipeline):
    command("run", "tiny", *ROW)
    made = runs.record(outputs, "cached")
    states = runs.states(outputs / "images")
    csv_before = (outputs / "records" / "tiny" / "cached.csv").read_text()
    no_pipeline()
    code, out, err = command("score", "tiny", *ROW)
    assert code == 0 and "Cached" in out, err
    assert runs.but_for_times(runs.record(outputs, "cached")) == runs.but_for_times(made)
    assert (outputs / "records" / "tiny" / "cached.csv").read_text() == csv_before
    assert runs.states(outputs / "images") == states and len(states) == 12


def test_other_metrics_of_the_same_images(tiny, outputs, command, no_pipeline):
    command("run", "tiny", *ROW)
    made = runs.record(outputs, "cached")
    no_pipeline()
    code, _, err = command("score", "tiny", *ROW, "metrics=[paired_ssim]")
    scored = runs.record(outputs, "cached")
    assert code == 0 and list(scored.metrics) == ["paired_ssim"], err
    assert dataclasses.asdict(scored.metrics["paired_ssim"]) == dataclasses.asdict(made.metrics["paired_ssim"])
    assert (scored.macs, scored.counts, scored.images) == (made.macs, made.counts, made.images)
    assert scored.run_id != made.run_id and scored.macs["denoiser"]["dense"] > 0


def test_no_images_at_all_are_refused(tiny, outputs, command, refused, no_pipeline):
    no_pipeline()
    assert "there are no images in" in refused("score", "tiny", *ROW)


def test_a_part_of_the_images_is_marked(tiny, outputs, command, refused, no_pipeline):
    command("run", "tiny", *ROW)
    own = outputs / "images" / runs.record(outputs, "cached").images
    (own / "1" / "00002.png").unlink()
    (outputs / "records" / "tiny" / "cached.json").unlink()
    no_pipeline()
    code, out, err = command("score", "tiny", *ROW)
    found = runs.record(outputs, "cached")
    assert code == 0 and (found.n_done, found.n_asked, found.full) == (5, 6, False) and "partial" in out
    assert "1 of 6 images are missing" in err and "none of their MACs" in err and found.macs == {}
    assert found.metrics["emoji_text_score"].n == 5
    (own / "0" / "00000.png").write_bytes(b"damaged")
    assert "cannot be read" in refused("score", "tiny", *ROW)


def test_every_image_is_in_the_manifest(tiny, outputs, command):
    command("run", "tiny", *ROW, "count=2")
    command("run", "tiny", *ROW, "count=3")
    folder = outputs / "images" / runs.record(outputs, "cached").images
    with (folder / "manifest.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == ["index", "prompt", "seed", "sha256", "file"]
    assert [(line["seed"], line["index"], line["sha256"]) for line in lines] == runs.hashes(outputs, "cached")
    assert all((folder / line["file"]).is_file() for line in lines)
