"""A user's mistake at the command line: exit code 2 and one line that says what to do."""

import json
import shutil

import pytest

from postdiff import cli
from postdiff.lab import models
from postdiff.lab.sampling import Sampler
from tests.lab import tiny_folder


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "dmeo"], "did you mean 'demo'"),
        (["run", "tiny", "--rows", "plane"], "did you mean 'plain'"),
        (["table", "tiny", "--rows", "cahced"], "did you mean 'cached'"),
        (["run", "tiny", "methods=[depcache]"], "did you mean 'deepcache'"),
        (["run", "tiny", "methods=[{deepcache: {intervall: 2}}]"], "did you mean 'interval'"),
        (["run", "tiny", "methods=[{mixed_resolution: {beta: 1.5}}]"], "beta"),
        (["run", "tiny", "methods=[{cfg_cutoff: {gate: -0.5}}]"], "gate"),
        (["run", "tiny", "model=emojis"], "did you mean 'emoji'"),
        (["run", "tiny", "model=/no/such/folder"], "not a folder"),
        (["run", "tiny", "data=tin"], "did you mean 'tiny'"),
        (["run", "tiny", "count=1"], "at least two pictures"),
        (["run", "tiny", "count=6"], "has 5 prompts"),
        (["run", "tiny", "device=cuda:99"], "device=auto"),
        (["run", "tiny", "scheduler.name=ddim", "scheduler.options.clip_smaple=false"], "did you mean 'clip_sample'"),
        (["run", "tiny", "--shard", "3/2"], "--shard"),
        (["run", "tiny", "--shard", "x"], "--shard"),
        (["run", "tiny", "--frseh"], "--frseh"),
        (["run", "tiny", "stray"], "key=value"),
        (["table", "tiny", "steps=3"], "unexpected"),
        (["table", "tiny"], "postdiff run tiny"),
        (["table", "tiny", "--format", "xml"], "markdown"),
        (["bench", "tiny", "bench.repeats=0"], "bench.repeats=5"),
        (["list", "modles"], "did you mean 'models'"),
        (["rnu"], "run"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_end_in_one_line(tiny, refused, words, told, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    assert told in refused(*words)


def test_methods_that_exclude_each_other(tiny, refused, monkeypatch):
    """Told before the reference pictures are drawn, which may take an hour."""
    monkeypatch.setattr(Sampler, "__call__", lambda *_: pytest.fail("pictures were drawn before the mistake was told"))
    assert "TGATE and CFGCutoff both act on 'guidance'" in refused("run", "tiny", "methods=[tgate,cfg_cutoff]")


def test_a_folder_without_a_pipeline(tiny, refused, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    line = refused("run", "tiny", f"model={empty}")
    assert "not a diffusers pipeline" in line and "save_pretrained" in line


def test_weights_in_pickle_format(tiny, refused, tmp_path):
    folder = tmp_path / "pickled"
    tiny_folder.save_pipeline(folder, safe=False)
    line = refused("run", "tiny", f"model={folder}", "metrics=[paired_psnr]")
    assert ".bin is in pickle format" in line and "safe_serialization" in line


def test_a_folder_with_a_damaged_part(tiny, refused, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny / "model", folder)
    (folder / "unet" / "config.json").unlink()
    assert "cannot be loaded" in refused("run", "tiny", f"model={folder}")


def test_a_model_on_the_hub_without_network(tiny, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    extra = tmp_path / "extra"
    file = extra / "configs" / "models" / "far.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("hub: nobody/nothing\n")
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{extra}")
    assert "connect once" in refused("run", "tiny", "model=far", "metrics=[paired_psnr]")


def test_a_model_without_dual_encoder(tiny, refused, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny / "model", folder, ignore=shutil.ignore_patterns("dual_encoder"))
    asked = "metrics=[paired_psnr,emoji_text_score]"
    assert "use metrics=[paired_psnr]" in refused("run", "tiny", f"model={folder}", asked)


def test_an_output_folder_that_cannot_be_written(tiny, refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POSTDIFF_OUTPUTS", str(tmp_path / "file" / "outputs"))
    assert "POSTDIFF_OUTPUTS" in refused("run", "tiny")


def test_a_full_disk(tiny, refused, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("postdiff.lab.quality.measure", full)
    assert "No space left on device (somewhere)" in refused("run", "tiny")


def test_a_missing_extra(refused, monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning")

    monkeypatch.setattr(cli, "_run", missing)
    assert 'pip install "postdiff[lab]"' in refused("run")


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def broken(_):
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["run"])


def test_debug_shows_the_traceback(tiny):
    for words in (["run", "dmeo", "--debug"], ["--debug", "run", "dmeo"]):
        with pytest.raises(ValueError, match="unknown experiment"):
            cli.main(words)


def test_a_statistics_file_of_another_encoder(tiny, refused, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    extra = tmp_path / "extra"
    file = extra / "configs" / "data" / "other.yaml"
    file.parent.mkdir(parents=True)
    statistics = extra / "other.safetensors"
    save_file(load_file(tiny / "statistics.safetensors"), statistics, metadata={"encoder_sha256": "0" * 64})
    file.write_text(json.dumps({"prompts": str(tiny / "prompts.jsonl"), "reference_statistics": str(statistics)}))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{extra}")
    assert "another encoder" in refused("run", "tiny", "data=other")
