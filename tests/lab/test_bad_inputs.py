"""Bad input to the command line: exit code 2, one line that says what, why and what to do, and nothing left behind."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from postdiff import cli
from postdiff.lab import run as run_module
from postdiff.lab.config.experiment import load as load_experiment
from postdiff.lab.config.layers import from_words
from postdiff.lab.devices import distributed
from postdiff.lab.files import folders
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.pipelines import models
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records.stored import images_of
from tests.lab import bad_files, bad_values, tiny_folder
from tests.lab.bad import FEW, RUN, data, instead, model, run
from tests.metrics import networks

EARLY = {**bad_files.FILES, **bad_values.VALUES, **bad_values.COMMANDS}


def written(root: Path, files: dict[str, Any]) -> None:
    """Put files below a folder: bytes and text as they are, other things as YAML or JSON."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (str, bytes)):
            content = yaml.safe_dump(content, sort_keys=False) if file.suffix == ".yaml" else json.dumps(content)
        if isinstance(content, str):
            content = content.replace("HERE", str(root)).encode()
        file.write_bytes(content)


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    """A fresh folder beside `tiny` in POSTDIFF_PATH."""
    root = tmp_path / "here"
    root.mkdir()
    (tmp_path / "model").symlink_to(tiny / "model")
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{root}")
    return root


BAR = re.compile(r"\d+%\|.*\| \d+/\d+ \[")  # how far a command had got when it found out


def listing(*folders: Path) -> dict[Path, int]:
    """Files with the time of their last change; locks stay, and hold nothing."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files if "locks" not in file.parts}


@pytest.fixture
def ends_well(here, outputs, command):
    """`ends_well("run", ...)` runs a command that must end in one line, and gives that line."""

    def end(*words: str) -> str:
        before = listing(outputs, here)
        code, out, err = command(*(word.replace("HERE", str(here)) for word in words))
        lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and not BAR.search(line)]
        assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
        assert lines[0].startswith("postdiff: error: ")
        assert listing(outputs, here) == before, "something was left behind"
        return lines[0].removeprefix("postdiff: error: ")

    return end


def assert_reported(line: str, message: tuple[str, ...]) -> None:
    """All parts stand in the line, in that order."""
    assert re.search(".*".join(map(re.escape, message)), line), line


@pytest.mark.parametrize("name", EARLY)
def test_reported_before_anything_is_loaded(name, here, ends_well, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    monkeypatch.setattr(run_module.row, "measure", lambda *_: pytest.fail("the run began before the mistake was told"))
    monkeypatch.setattr(
        distributed, "launch", lambda *_: pytest.fail("processes were started before the mistake was told")
    )
    written(here, EARLY[name].files)
    assert_reported(ends_well(*EARLY[name].words), EARLY[name].message)


# Told when the model is there, before an image is kept.
LATE = {
    "height": (run("height=30"), ("row 'plain'", "refuses", "divisible by 8")),
    "a million steps": (run("steps=1000000"), ("row 'plain'", "steps=1000000", "use at most that")),
    "a million steps of a reference": (
        run("metrics=[paired_psnr]", "reference_steps=1000000"),
        ("row 'plain'", "reference_steps=1000000", "use at most that"),
    ),
    "a million steps of a solver that refuses": (
        run("scheduler=ddim", "steps=1000000"),
        ("row 'plain'", "steps=1000000", "use at most that"),
    ),
    "option of a scheduler": (run("scheduler.options.solver_ordre=1"), ("'solver_ordre'", "'solver_order'")),
    "value of a scheduler": (run("scheduler.options.beta_start=abc"), ("beta_start=abc", "does not fit this model")),
    "a scheduler without steps": (run("scheduler.options.num_train_timesteps=-5"), ("=-5", "does not fit this model")),
    "weights of a metric": (
        run("metrics=[{paired_lpips: {weights: /etc/passwd}}]"),
        ("LPIPS", "/etc/passwd holds something else", "get it from"),
    ),
    "methods on the same modules": (run("methods=[tome,todo]"), ("ToMe and ToDo", "both act on", "use one of them")),
    "method twice": (run("methods=[mixed_resolution,mixed_resolution]"), ("both act on 'latent size'", "use one")),
    "method refused by the network": (
        run("methods=[{deepcache: {branch: 99}}]"),
        ("branch=99", "deeper than UNet2DConditionModel", "last is 5"),
    ),
    "gate beyond the run": (
        run("methods=[{tgate: {gate: 9}}]"),
        ("gate=9", "is outside this run of 4 steps"),
    ),
    "gate of no guidance": (
        run("guidance_scale=1.0", "methods=[cfg_cutoff]"),
        ("this run has no guidance to cut off",),
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_reported_before_an_image_is_kept(name, ends_well, monkeypatch):
    monkeypatch.setattr(
        Sampler, "__call__", lambda *_: pytest.fail("images were generated before the mistake was told")
    )
    assert_reported(ends_well(*LATE[name][0]), LATE[name][1])


def test_an_image_larger_than_memory(here, ends_well, monkeypatch):
    """More than any machine can address, so that nothing is taken before it is refused."""
    monkeypatch.setattr(Sampler, "call", lambda *_: torch.empty(2**58))
    message = ("memory is full", "can't allocate memory", "use a smaller batch_size or image")
    assert_reported(ends_well(*run()), message)


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("length", [0, 5, 3000])
def test_weights_cut_short(tiny, here, ends_well, part, length):
    shutil.copytree(tiny / "model", here / "m")
    cut(here / "m" / f"{part}.safetensors", length)
    assert_reported(ends_well(*run("model=HERE/m")), (f"{here}/m cannot be loaded", "again"))


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "config.json", "tokenizer.json"])
def test_a_damaged_dual_encoder(tiny, here, ends_well, name):
    shutil.copytree(tiny / "model", here / "m")
    cut(here / "m" / "dual_encoder" / name, 20)
    line = ends_well(*run("model=HERE/m", "metrics=[emoji_text_score]"))
    assert_reported(line, ("dual encoder", "cannot be read", "save_pretrained"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: cut(file, 30), ("mine.safetensors", "cannot be read", "again")),
        (lambda file: file.unlink(), ("mine.safetensors", "missing", "name another file")),
        (lambda file: save_file({"mean": torch.zeros(8)}, file), ("holds no count, covariance", "name another")),
        (
            lambda file: save_file(load_file(file) | {"mean": torch.zeros(4)}, file),
            ("holds tensors of shapes (4,), (8, 8)", "name another"),
        ),
        (
            lambda file: save_file({**load_file(file), "mean": torch.zeros(4), "covariance": torch.eye(4)}, file),
            ("another encoder", "choose a data card that fits"),
        ),
        (
            lambda file: save_file(load_file(file), file, metadata={"encoder_sha256": "0" * 64}),
            ("another encoder", "choose a data card that fits"),
        ),
    ],
)
def test_statistics_that_do_not_fit(tiny, here, ends_well, change, message):
    shutil.copy(tiny / "statistics.safetensors", here / "mine.safetensors")
    change(here / "mine.safetensors")
    card = {"prompts": str(tiny / "prompts.jsonl"), "reference_statistics": "HERE/mine.safetensors"}
    written(here, data(card))
    line = ends_well(*run("count=3", "data=mine", "metrics=[emoji_frechet_distance]"))
    assert_reported(line, message)


@pytest.mark.parametrize("length", [0, 20, 200])
def test_a_damaged_image_to_start_from(tiny, here, ends_well, length):
    """The first bytes of an image cut at 200 are sound, so that one is told when it is read."""
    tiny_folder.save_images(here / "images", 5)
    cut(here / "images" / "0.png", length)
    card = {"folder": str(tiny / "model"), "pipeline": "StableDiffusionImg2ImgPipeline", "height": 32, "width": 32}
    written(here, model(card) | data({"prompts": str(tiny / "prompts.jsonl"), "images": "HERE/images"}))
    line = ends_well(*run("model=mine", "data=mine"))
    assert_reported(line, ("images/0.png", "cannot be read", "put it right"))


@pytest.mark.parametrize(
    ("package", "metrics", "message"),
    [
        (
            "open_clip",
            "[{clip_score: {model: 'open_clip:ViT-B-32/openai'}}]",
            ("needs open_clip", "not installed", 'pip install "postdiff[metrics]"'),
        ),
        ("cleanfid", "[inception_score]", ("needs cleanfid", "not installed", 'pip install "postdiff[lab]"')),
    ],
)
def test_a_metric_whose_package_is_missing(ends_well, monkeypatch, package, metrics, message):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "postdiff.metrics.extractors", raising=False)
    monkeypatch.delattr("postdiff.metrics.extractors", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    assert_reported(ends_well(*run("count=2", f"metrics={metrics}")), message)


def test_a_reference_made_with_another_network(tiny, here, ends_well, command, monkeypatch):
    tiny_folder.save_images(here / "real", 3)
    for seed, name in enumerate(("one", "two")):
        networks.save(networks.Small, here / f"{name}.pt", seed)
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(here / "one.pt"))
    code, out, err = command("data", "statistics", str(here / "real"))
    assert code == 0, err
    file = re.search(r"statistics: (\S+),", out)[1]
    monkeypatch.setenv("POSTDIFF_INCEPTION", str(here / "two.pt"))
    line = ends_well(*run("count=2", f"metrics=[{{fid_clean: {{reference: {file}}}}}]"))
    assert_reported(line, ("metric fid_clean", "was made with checkpoint", "make it again"))
    line = ends_well(*run("count=2", f"metrics=[{{fid_clean: {{reference: {here / 'real'}}}}}]"))
    assert_reported(line, ("metric fid_clean", "there are no reference statistics", "postdiff data statistics"))


SMALL = ("bench.repeats=0", "metrics=[emoji_text_score]", "count=2", "seeds=[0]")


@pytest.fixture(scope="module")
def drawn(tiny_root, tmp_path_factory):
    """An outputs folder with the images of one row."""
    root = tmp_path_factory.mktemp("generated") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_OUTPUTS", str(root))
        patch.setenv("POSTDIFF_PATH", str(tiny_root))
        assert cli.main([*RUN, *SMALL]) == 0
    return root


@pytest.fixture
def stored(drawn, outputs, here, capsys):
    """The same in this test's outputs; gives the file of the row's second image."""
    capsys.readouterr()
    shutil.copytree(drawn, outputs)
    [plan] = plan_rows(load_experiment("tiny", from_words(SMALL)).select(["plain"]))
    return images_of(plan).file(plan.samples[1])


@pytest.mark.parametrize("length", [0, 30, 500])
@pytest.mark.parametrize("command_name", ["score", "export"])
def test_a_damaged_image_among_those_stored(stored, ends_well, command_name, length):
    cut(stored, length)
    line = ends_well(command_name, "tiny", "--rows", "plain", *SMALL)
    assert_reported(line, (str(stored), "cannot be read", "remove it and run the row again"))


def test_a_missing_image_is_not_exported(stored, ends_well):
    stored.unlink()
    line = ends_well("export", "tiny", "--rows", "plain", *SMALL)
    assert_reported(line, ("1 of 2 images of row 'plain' are missing", "make them with 'postdiff run tiny"))


def test_scores_that_need_images_that_are_not_there(stored, ends_well):
    line = ends_well("score", "tiny", "--rows", "plain", *instead(SMALL, ["metrics=[paired_psnr]"]))
    assert_reported(line, ("row 'plain'", "a run of 6 steps, which has no images", "name other metrics"))


@pytest.mark.parametrize(
    ("out", "message"), [("x.zip", "must end in .npz"), ("folder.npz", "is a folder; name a file")]
)
def test_an_export_that_has_no_place(stored, here, ends_well, out, message):
    (here / "folder.npz").mkdir()
    assert_reported(ends_well("export", "tiny", "--rows", "plain", *SMALL, "--out", f"HERE/{out}"), (out, message))


@pytest.mark.parametrize("words", [run(), ("bench", "tiny"), ("data", "statistics", "tiny_images")])
def test_an_outputs_folder_that_is_a_file(words, here, ends_well, monkeypatch):
    (here / "file").write_text("mine")
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(here / "file"))
    assert_reported(ends_well(*words), (f"{here}/file", "cannot be written", "set POSTDIFF_OUTPUTS"))


def test_a_folder_inside_outputs_that_is_a_file(ends_well, outputs):
    (outputs).mkdir()
    (outputs / "images").write_text("mine")
    assert_reported(ends_well(*run()), ("directory", str(outputs / "images"), "free or change the folder"))


def test_a_folder_of_extras_that_is_not_there(tiny, ends_well, monkeypatch):
    monkeypatch.setenv("POSTDIFF_PATH", "/no/such")
    assert_reported(ends_well(*run()), ("POSTDIFF_PATH", "'/no/such', which is not a folder", "unset the variable"))


def test_a_locked_folder_is_waited_for_and_left_alone(here, outputs, command, monkeypatch):
    """Nobody says for how long: Ctrl-C ends the waiting, and the images are the other process's."""
    [plan] = plan_rows(load_experiment("tiny", from_words(FEW)).select(["plain"]))
    place = outputs / "locks" / images_of(plan).folder.name
    place.mkdir(parents=True)
    waits = []

    def ends_after_three(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(folders, "SILENT", 0)
    monkeypatch.setattr(time, "sleep", ends_after_three)
    with (place / "all.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = listing(outputs)
        code, out, err = command(*run())
        assert (code, out, len(waits)) == (130, "", 3), err
        assert err.count("waiting for another process") == 1 and "interrupted" in err.splitlines()[-1]
        assert listing(outputs) == before
    assert command(*run())[0] == 0


def test_wandb_off_is_no_truth_value(here, command, outputs):
    """YAML reads the word as false."""
    assert load_experiment("tiny", from_words(["wandb=off"])).rows[0].config.wandb == "off"
