"""Preference metrics in a run: only when asked for, told early when their weights miss, part of the run's identity."""

import json

import pytest

from postdiff.lab.config import experiment
from postdiff.lab.pipelines import models
from postdiff.lab.plan.plan import plan_rows
from tests.lab import tiny_folder
from tests.metrics import authors_reward

NAMES = ["image_reward", "pick_score", "paired_pick_preference"]
FEW = ["count=2", "seeds=[0]", "reference_steps=4", "bench.repeats=0"]
ASKED = f"metrics=[{','.join(NAMES)}]"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Tiny weights of both scorers."""
    tiny_folder.save_encoder(tmp_path / "pick")
    authors_reward.save(tmp_path / "reward")
    monkeypatch.setenv("POSTDIFF_PICKSCORE", str(tmp_path / "pick"))
    monkeypatch.setenv("POSTDIFF_IMAGEREWARD", str(tmp_path / "reward"))


def test_a_run_measures_them_and_says_with_what(tiny, outputs, command, weights):
    code, out, err = command("run", "tiny", *FEW, ASKED)
    assert code == 0, err
    assert "ImageReward" in out and "PickScore" in out and "Preferred (%)" in out
    records = outputs / "records" / "tiny"
    plain, cached = (json.loads((records / f"{row}.json").read_text()) for row in ("plain", "cached"))
    assert plain["metrics"]["paired_pick_preference"]["value"] == 50, "equal to the reference run of as many steps"
    assert cached["metrics"]["paired_pick_preference"]["value"] != 50
    assert cached["metrics"]["paired_pick_preference"]["identity"]["reference"] == plain["references"]
    for name in NAMES:
        identity = cached["metrics"][name]["identity"]
        assert {"model", "checkpoint", "resize", "dtype", "n_per_seed"} <= set(identity)


def test_nobody_asked_for_them(tiny):
    [plan, _] = plan_rows(experiment.load("tiny"))
    assert plan.metrics and not set(plan.metrics) & set(NAMES)


def test_other_weights_are_another_run(tiny, monkeypatch, weights):
    def run_id(**changes):
        return plan_rows(experiment.load("tiny", {"metrics": ["pick_score"], **changes}))[0].run_id

    own = run_id()
    assert run_id(metrics=["image_reward"]) != own
    monkeypatch.setenv("POSTDIFF_PICKSCORE", "somebody/weights")
    assert run_id() != own


def test_missing_weights_are_reported_before_anything_is_drawn(tiny, refused, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the model was loaded before the mistake was told"))
    monkeypatch.delenv("POSTDIFF_PICKSCORE", raising=False)
    message = refused("run", "tiny", *FEW, "metrics=[pick_score]")
    assert (
        "yuvalkirstain/PickScore_v1@main is missing or incomplete in" in message
        and "set POSTDIFF_PICKSCORE to a folder" in message
    )
    monkeypatch.setenv("POSTDIFF_PICKSCORE", "/no/such/folder")
    assert "POSTDIFF_PICKSCORE=/no/such/folder is no folder" in refused("run", "tiny", *FEW, "metrics=[pick_score]")


def test_a_bench_reports_the_peak_memory(tiny, outputs, command):
    code, out, err = command("bench", "tiny", "bench.repeats=1")
    assert code == 0, err
    assert "Memory (MB)" in out and "memory: the peak of one call" in out
    rows = json.loads(command("table", "tiny", "--format", "json")[1])
    found = {row["row"]: row["peak_memory_mb"] for row in rows}
    assert 0 < found["plain"] < found["cached"] < 100, "DeepCache keeps features"
