"""The wheel carries configs and the shipped model, and works outside the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NETWORKS = {
    "alexnet": ("features.safetensors", "LICENSE", "NOTICE"),
    "efficientnet": ("lite0.safetensors", "LICENSE", "NOTICE"),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel):
    """The wheel, unpacked by pip into a folder of its own."""
    site = wheel.parent / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return site


def postdiff(site, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site), "POSTDIFF_OUTPUTS": str(cwd / "outputs")}
    command = [sys.executable, "-m", "postdiff", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_what_ships_and_stays_small(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    parts = [f"{folder}/{name}" for folder, files in NETWORKS.items() for name in files]
    for part in ("emoji/model_index.json", "emoji/NOTICE", "emoji/efficientnet_features.safetensors", *parts):
        assert f"postdiff/zoo/{part}" in names
    assert wheel.stat().st_size < 60e6


def test_lpips_outside_the_clone_fetches_nothing(installed, tmp_path):
    script = (
        "import torch; from postdiff.metrics.perceptual import LPIPS, LPIPSOptions; metric = LPIPS(LPIPSOptions()); "
        "image = torch.arange(3 * 64 * 64).remainder(251).to(torch.uint8).reshape(1, 3, 64, 64); "
        "metric.update(image, image.flip(3)); print(float(metric.compute()) > 0.01)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "TORCH_HOME": str(tmp_path)}
    environment.pop("POSTDIFF_ALEXNET", None)
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "True", found.stderr
    assert not list(tmp_path.rglob("*.pth"))


def test_it_is_the_wheel_that_runs(installed, tmp_path):
    script = "import postdiff; print(postdiff.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(installed))


def test_list_outside_the_clone(installed, tmp_path):
    listed = postdiff(installed, tmp_path, "list")
    assert listed.returncode == 0, listed.stderr
    for name in ("demo", "emoji", "mixed_resolution", "postdiff", "tgate_v1"):
        assert name in listed.stdout


def test_one_row_of_the_demo_outside_the_clone(installed, tmp_path):
    settings = ["count=2", "seeds=[0]", "reference_steps=6", "steps=4", "bench.repeats=0"]
    run = postdiff(installed, tmp_path, "run", "demo", "--rows", "steps_20", *settings)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "outputs" / "records" / "demo" / "steps_20.json").is_file()
