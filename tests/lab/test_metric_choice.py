"""Metrics with options in a run, reference statistics, intervals: from the command line to the record and the table."""

import json

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid

from postdiff.lab.config import experiment
from postdiff.lab.config.schema import resolve
from postdiff.lab.metrics import reference_statistics
from postdiff.lab.pipelines import models
from postdiff.lab.plan.plan import plan_rows
from postdiff.metrics.reference import ReferenceStatistics
from postdiff.model_files import sha256
from postdiff.zoo import ALEXNET, EFFICIENTNET, EMOJI
from tests.lab import tiny_folder
from tests.metrics import networks

FEW = ["--rows", "plain", "seeds=[0]", "bench.repeats=0"]


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A tiny network in the place of Inception."""
    file = networks.save(networks.Small, tmp_path / "small.pt")
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(file))
    return file


@pytest.fixture
def real(tmp_path):
    """Eight reference images."""
    return networks.save_images(tmp_path / "real", networks.images(2, 8))


def record(outputs, row="plain"):
    return json.loads((outputs / "records" / "tiny" / f"{row}.json").read_text())


def test_a_run_measures_the_fid_of_clean_fid(tiny, outputs, command, network, real):
    code, out, err = command("data", "statistics", "tiny", "--images", str(real))
    assert code == 0, err
    assert "8 images, small.pt" in out
    code, out, err = command("run", "tiny", *FEW, "count=5", "metrics=[fid_clean, kid, precision, inception_score]")
    assert code == 0, err
    assert "FID (clean)" in out and "IS" in out
    found = record(outputs)
    expected = clean_fid.compute_fid(
        str(outputs / "images" / found["images"] / "0"),
        str(real),
        mode="clean",
        custom_feat_extractor=torch.jit.load(str(network)),
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    assert found["metrics"]["fid_clean"]["value"] == pytest.approx(expected, rel=1e-3)
    for name in ("fid_clean", "kid", "precision", "inception_score"):
        identity = found["metrics"][name]["identity"]
        assert {"model", "checkpoint", "resize", "dtype", "n_per_seed"} <= set(identity)
        assert ("statistics" in identity) == (name != "inception_score")
    assert "for 6 feature dimensions" in found["metrics"]["fid_clean"]["identity"]["note"]


def test_statistics_are_made_once_and_again_when_images_change(tiny, outputs, command, network, real, monkeypatch):
    def make():
        code, out, err = command("data", "statistics", str(real))
        assert code == 0, err
        return out

    first = make()
    [file] = (outputs / "data" / "statistics").glob("*.safetensors")
    before, when = ReferenceStatistics.load(file), file.stat().st_mtime_ns
    assert before.count == 8 and before.identity["data"] == "real" and "there already" not in first
    features = before.features.double().numpy()
    assert np.allclose(before.covariance.numpy(), np.cov(features, rowvar=False))
    assert np.allclose(before.mean.numpy(), features.mean(0))
    monkeypatch.setattr(reference_statistics, "_batches", lambda *_: pytest.fail("it was made again"))
    assert "there already" in make() and file.stat().st_mtime_ns == when
    monkeypatch.undo()
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(outputs))
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(network))
    networks.save_images(real, networks.images(3, 1))
    assert "there already" not in make()
    assert ReferenceStatistics.load(file).identity["images"] != before.identity["images"]
    (real / "more.png").write_bytes((real / "001.png").read_bytes())
    assert "9 images" in make()


def test_a_crop_is_of_the_middle_and_has_statistics_of_its_own(tiny, outputs, command, network, real):
    tiny_folder.save_images(real, 3)  # 48 x 40
    for words in ([], ["--crop", "20"]):
        assert command("data", "statistics", str(real), *words)[0] == 0
    assert len(list((outputs / "data" / "statistics").glob("*.safetensors"))) == 2
    cropped = reference_statistics._read(real / "0.png", 20)
    assert cropped.shape == (3, 20, 20) and reference_statistics._read(real / "0.png", None).shape == (3, 40, 48)
    # The disc of the first image is left of the middle of 24 x 20 pixels.
    assert cropped[:, 10, 6].float().mean() > 150 > cropped[:, 10, 18].float().mean()


def test_missing_statistics_are_reported_with_the_command_before_anything_is_drawn(tiny, refused, network, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the model was loaded before the mistake was told"))
    message = refused("run", "tiny", *FEW, "metrics=[fid_clean]")
    assert "metric fid_clean: there are no reference statistics of 'tiny'" in message
    assert "postdiff data statistics tiny --mode clean" in message
    message = refused("run", "tiny", *FEW, "metrics=[{kid: {mode: legacy_tensorflow, crop: 20, reference: other}}]")
    assert "postdiff data statistics other --mode legacy_tensorflow --crop 20" in message
    monkeypatch.delenv("POSTDIFF_INCEPTION")
    message = refused("run", "tiny", *FEW, "metrics=[fid_clean]")
    assert "needs the Inception network inception-2015-12-05.pt" in message and "set POSTDIFF_INCEPTION" in message


def test_statistics_of_another_network_are_refused(tiny, outputs, command, refused, network, real, tmp_path):
    assert command("data", "statistics", str(real))[0] == 0
    [file] = (outputs / "data" / "statistics").glob("*.safetensors")
    other = networks.save(networks.Small, tmp_path / "other.pt", seed=1)
    given = f"{{fid_clean: {{extractor: {other}, reference: {file}}}}}"
    assert "was made with checkpoint" in refused("run", "tiny", *FEW, f"metrics=[{given}]")
    given = f"{{fid_legacy_tensorflow: {{reference: {file}}}}}"
    assert "was made with mode clean, not legacy_tensorflow" in refused("run", "tiny", *FEW, f"metrics=[{given}]")


def test_changed_statistics_are_another_run_and_marked_in_the_table(tiny, outputs, command, network, real):
    words = ["seeds=[0]", "bench.repeats=0", "count=4", "metrics=[fid_clean]"]

    def ids():
        rows = plan_rows(experiment.load("tiny", {"seeds": [0], "count": 4, "metrics": ["fid_clean"]}))
        return [row.run_id for row in rows]

    without = ids()
    assert command("data", "statistics", "tiny", "--images", str(real))[0] == 0
    before = ids()
    assert before != without
    code, out, err = command("run", "tiny", *words)
    assert code == 0, err
    assert "than in the first row" not in out
    networks.save_images(real, networks.images(4, 2))
    assert command("data", "statistics", "tiny", "--images", str(real))[0] == 0
    assert ids() != before
    code, out, err = command("run", "tiny", *words, "--rows", "cached")
    assert code == 0, err
    out = command("table", "tiny")[1]
    assert "* FID (clean) with other statistics than in the first row: Cached" in out


def test_options_are_checked(tiny, refused):
    def message(metrics):
        return refused("run", "tiny", *FEW, f"metrics={metrics}")

    assert "did you mean 'subsets'" in message("[{kid: {subset: 3}}]")
    assert "metric kid" in message("[{kid: {subsets: many}}]")
    assert "subsets=0 is too small" in message("[{kid: {subsets: 0}}]")
    assert "did you mean 'clean'" in message("[{kid: {mode: cleen}}]")
    assert "did you mean 'fid_clean'" in message("[fid_claen]")
    assert "has no options" in message("[{paired_psnr: {cap: 3}}]")
    assert "is written as its name" in message("[{kid: 3}]")
    assert "names a metric twice" in message("[kid, {kid: {subsets: 3}}]")
    assert "has no {prompt}" in message("[{clip_score: {template: a}}]")
    assert "count=3: metric precision needs at least four images" in message("[precision]")
    assert "bootstrap=-1 is too small" in refused("run", "tiny", *FEW, "bootstrap=-1")


def test_where_a_file_is_does_not_matter_for_the_id_and_what_it_holds_does(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("POSTDIFF_INCEPTION", raising=False)
    one, copy = (networks.save(networks.Small, tmp_path / name) for name in ("one.pt", "copy.pt"))
    copy.write_bytes(one.read_bytes())
    other = networks.save(networks.Small, tmp_path / "other.pt", seed=1)

    def run_id(**options):
        overrides = {"metrics": [{"inception_score": options}] if options else ["inception_score"]}
        return plan_rows(experiment.load("tiny", overrides))[0].run_id

    assert run_id(extractor=str(one)) == run_id(extractor=str(copy)) != run_id(extractor=str(other))
    assert run_id(extractor=str(one), splits=2) != run_id(extractor=str(one)) == run_id(extractor=str(one), splits=10)


def test_ids_without_options_are_what_they_were(tiny):
    plain = plan_rows(experiment.load("tiny"))[0]
    assert plain.config.metrics == plain.metrics
    assert plan_rows(experiment.load("tiny", {"bootstrap": 0}))[0].run_id == plain.run_id
    assert plan_rows(experiment.load("tiny", {"bootstrap": 9}))[0].run_id != plain.run_id
    assert resolve([]).bootstrap == 0


def test_bootstrap_intervals_surround_the_values(tiny, outputs, command):
    code, out, err = command("run", "tiny", "bench.repeats=0", "bootstrap=200", "--rows", "cached")
    assert code == 0, err
    found = record(outputs, "cached")
    rows = (outputs / "records" / "tiny" / "cached.csv").read_text().splitlines()
    place = rows[0].split(",").index("paired_psnr")
    values = [float(row.split(",")[place]) for row in rows[1:]]
    for name, value in found["metrics"].items():
        low, high = value["interval"]
        assert low <= value["value"] <= high and low < high, name
    low, high = found["metrics"]["paired_psnr"]["interval"]
    assert min(values) <= low < high <= max(values)
    assert f"[{low:.1f}, {high:.1f}]" in out
    shown = json.loads(command("table", "tiny", "--format", "json")[1])
    assert next(row for row in shown if row["row"] == "cached")["paired_psnr_low"] == low
    command("run", "tiny", "bench.repeats=0", "bootstrap=200", "--rows", "cached", "--fresh")
    assert record(outputs, "cached")["metrics"]["paired_psnr"]["interval"] == [low, high], "seeded"


def test_clip_score_and_cmmd_in_a_run(tiny, outputs, command, real, tmp_path):
    clip = tmp_path / "clip"
    tiny_folder.save_encoder(clip)
    code, _, err = command(
        "data", "statistics", "tiny", "--images", str(real), "--mode", "clip", "--extractor", str(clip)
    )
    assert code == 0, err
    asked = ", ".join(f"{{{name}: {{model: {clip}}}}}" for name in ("clip_score", "clip_score_w25", "cmmd"))
    code, out, err = command("run", "tiny", *FEW, f"metrics=[{asked}]")
    assert code == 0, err
    found = record(outputs)["metrics"]
    assert -100 <= found["clip_score"]["value"] <= 100
    assert 0 <= found["clip_score_w25"]["value"] <= 2.5
    assert found["cmmd"]["value"] > 0 and found["cmmd"]["identity"]["statistics"]["count"] == 8
    assert "CLIP score" in out and "CMMD" in out


def test_lpips_is_measured_with_what_ships_when_asked_for_and_only_then(tiny, outputs, command, monkeypatch):
    monkeypatch.delenv("POSTDIFF_ALEXNET", raising=False)
    code, out, err = command("run", "tiny", *FEW, "count=2", "metrics=[paired_lpips]")
    assert code == 0, err
    assert "LPIPS" in out
    found = record(outputs)["metrics"]
    assert list(found) == ["paired_lpips"] and found["paired_lpips"]["value"] >= 0
    assert found["paired_lpips"]["identity"]["checkpoint"] == sha256(ALEXNET)[:16]
    code, _, err = command("run", "tiny", *FEW, "count=2")
    assert code == 0, err
    assert "paired_psnr" in record(outputs)["metrics"] and "paired_lpips" not in record(outputs)["metrics"]


def test_efficientnets_distances_need_images_and_no_file(tiny, outputs, command, refused, real):
    asked = "metrics=[frechet_efficientnet, kernel_efficientnet]"
    assert "postdiff data statistics tiny --mode efficientnet'" in refused("run", "tiny", *FEW, "count=2", asked)
    code, out, err = command("data", "statistics", "tiny", "--images", str(real), "--mode", "efficientnet")
    assert code == 0, err
    assert "8 images, EfficientNet-Lite0" in out
    code, out, err = command("run", "tiny", *FEW, "count=2", asked)
    assert code == 0, err
    assert "Frechet (EfficientNet)" in out and "FID" not in out
    for value in record(outputs)["metrics"].values():
        assert value["identity"]["model"] == "EfficientNet-Lite0" and value["identity"]["statistics"]["count"] == 8
    line = refused("data", "statistics", str(real), "--mode", "efficientnet", "--extractor", "mine.pt")
    assert "has a network that ships, and mine.pt is named for it" in line


def test_the_demo_compares_with_features_that_ship_unless_others_are_named(outputs):
    shipped = ReferenceStatistics.read_identity(EMOJI / "efficientnet_features.safetensors")["images"]

    def rests_on(**options):
        asked = {"metrics": [{"frechet_efficientnet": options}] if options else ["frechet_efficientnet"]}
        return plan_rows(experiment.load("demo", asked))[0].measured_with

    assert rests_on() == [sha256(EFFICIENTNET)[:16], shipped]
    assert rests_on(reference="others")[1] is rests_on(crop=32)[1] is None
    assert shipped in plan_rows(experiment.load("demo"))[0].measured_with
