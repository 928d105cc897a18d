"""A user's mistake at the command line: exit code 2 and one line that says what to do."""

import dataclasses
import json
import shutil

import pytest

from postdiff import cli
from postdiff.cli.parser import COMMANDS
from postdiff.lab.generate.sampler import Sampler
from postdiff.lab.pipelines import models
from postdiff.lab.records.record import SCHEMA, fresh_path
from tests.lab import tiny_folder
from tests.support import tiny as tiny_pipelines
from tests.support import whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "dmeo"], "did you mean 'demo'"),
        (["run", "tiny", "--rows", "plane"], "did you mean 'plain'"),
        (["table", "tiny", "--rows", "cahced"], "did you mean 'cached'"),
        (["run", "tiny", "methods=[depcache]"], "did you mean 'deepcache'"),
        (["run", "tiny", "methods=[{depcache: {}}]"], "unknown method 'depcache'; did you mean 'deepcache'"),
        (["run", "tiny", "methods=[{deepcache: {intervall: 2}}]"], "did you mean 'interval'"),
        (["run", "tiny", "methods=[{deepcache: {interval:2}}]"], "YAML wants a space after the colon"),
        (["run", "tiny", "methods=[{deepcache: {interval: two}}]"], "DeepCache: interval='two' must be int"),
        (["run", "tiny", "methods=[{deepcache: {interval: 0}}]"], "DeepCache: interval=0 must be 1 or more"),
        (["run", "tiny", "methods=[{deepcache: {branch: -1}}]"], "DeepCache: branch=-1 must be 0 or more"),
        (["run", "tiny", "methods=[3]"], "{name: {option: value}}, not 3"),
        (["run", "tiny", "methods=[{deepcache: 2}]"], "{deepcache: {option: value}}, not 2"),
        (["run", "tiny", "methods={deepcache: {}}"], "methods={'deepcache': {}} must be a list"),
        (["run", "tiny", "seeds=3"], "seeds=3 must be a list; write seeds=[...]"),
        (["run", "tiny", "--rows", ","], "--rows names no row"),
        (["run", "tiny", "--rows", ""], "--rows names no row"),
        (["run", "tiny", "methods=[{mixed_resolution: {beta: 1.5}}]"], "beta"),
        (["run", "tiny", "methods=[{mixed_resolution: {switch: -1}}]"], "MixedResolution: switch=-1 must be a step"),
        (["run", "tiny", "methods=[{mixed_resolution: {history: rest}}]"], "did you mean 'reset'"),
        (["run", "tiny", "methods=[{cfg_cutoff: {gate: -0.5}}]"], "gate"),
        (["run", "tiny", "methods=[{tgate: {gate: 1.5}}]"], "TGATE: gate=1.5 must be a step"),
        (["run", "tiny", "methods=[{tome: {ratio: 0.8}}]"], "ToMe: ratio=0.8 must be from 0 to 0.75"),
        (["run", "tiny", "methods=[{todo: {factors: [0]}}]"], "ToDo: factors=[0] must be 1 or more each"),
        (["run", "tiny", "stps=3"], "unknown key 'stps'; did you mean 'steps'"),
        (["run", "tiny", "bench.repeat=3"], "did you mean 'bench.repeats'"),
        (["run", "tiny", "metrics=[paired_psn]"], "did you mean 'paired_psnr'"),
        (["run", "tiny", "scheduler=dimm"], "unknown scheduler 'dimm'; did you mean 'ddim'"),
        (["run", "tiny", "dtype=float31"], "did you mean 'float32'"),
        (["run", "tiny", "steps=0"], "steps=0 is too small"),
        (["run", "tiny", "steps=ten"], "steps: Value 'ten'"),
        (["run", "tiny", "guidance_scale=-1"], "guidance_scale=-1 is too small"),
        (["run", "tiny", "seeds=[0,0]"], "different whole numbers"),
        (["run", "tiny", "device=gpu"], "use auto, cpu, cuda or cuda:N"),
        (["run", "tiny", "model=emojis"], "did you mean 'emoji'"),
        (["run", "tiny", "model=/no/such/folder"], "not a folder"),
        (["run", "tiny", "data=tin"], "did you mean 'tiny'"),
        (["run", "tiny", "count=1"], "at least two images"),
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
        (["macs", "tiny"], "model 'tiny' names no structure"),
        (["macs", "demo", "--rows", "deepcache", "model=pixart_alpha"], "DeepCache needs a U-Net"),
        (["list", "modles"], "did you mean 'models'"),
        (["rnu"], "run"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_end_in_one_line(tiny, refused, words, message, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    assert message in refused(*words)


CLASSES = ["data=tiny_classes"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Pipelines that are no plain Stable Diffusion, {name: folder}."""
    root = tmp_path_factory.mktemp("folders")
    pipes = {"pixart": whole.pixart_alpha(), "lcm": whole.sd15_lcm(), "dit": tiny_pipelines.build("dit").pipe}
    for name, pipe in pipes.items():
        pipe.save_pretrained(root / name)
    return {name: str(root / name) for name in pipes}


@pytest.fixture
def small(refused, folders):
    """`small("methods=[tome]")` gives the one line of a run of one row and few images; {pixart} is a folder."""

    def run(*words):
        given = [word.format_map(folders) if word.startswith("model=") else word for word in words]
        few = ["count=1", "seeds=[0]", "reference_steps=4", "metrics=[paired_psnr]", "bench.repeats=0"]
        return refused("run", "tiny", "--rows", "plain", *few, *given)

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["methods=[tgate,cfg_cutoff]"], "TGATE and CFGCutoff both act on 'guidance'"),
        (["methods=[tgate,cross_attention_cache]"], "TGATE and CrossAttentionCache both act on"),
        (["methods=[tome,todo]"], "ToMe and ToDo both act on"),
        (["methods=[deepcache,{deepcache: {branch: 2}}]"], "DeepCache and DeepCache both act on 'mid_block'"),
        (["methods=[mixed_resolution,mixed_resolution]"], "both act on 'latent size'; use one of them"),
        (["methods=[{deepcache: {branch: 99}}]"], "deeper than UNet2DConditionModel, whose last is 5"),
        (["methods=[{todo: {factors: [1,1,1,1,2]}}]"], "factors=[1, 1, 1, 1, 2] reach no transformer block"),
        (["model={pixart}", "methods=[deepcache]"], "DeepCache needs a U-Net with skip connections; PixArtTransformer"),
        (["model={pixart}", "methods=[todo]"], "ToDo needs a U-Net"),
        (["model={dit}", *CLASSES, "methods=[cross_attention_cache]"], "DiTTransformer2DModel has no separate cross"),
        (["model={dit}", *CLASSES, "methods=[{encoder_propagation: {split: 9}}]"], "split=9 is outside the"),
        (["methods=[{encoder_propagation: {keys: sd_5}}]"], "unknown key set of EncoderPropagation 'sd_5'"),
        (["methods=[{encoder_propagation: {keys: sd_50}}]"], "key set 'sd_50' is for 50 steps, this run has"),
        (["methods=[{encoder_propagation: {keys: [1,2]}}]"], "keys=[1, 2] must hold step 0"),
        (["methods=[{encoder_propagation: {keys: [0,999]}}]"], "key step 999 is past the end of this run"),
        (["methods=[deepcache,encoder_propagation]"], "DeepCache and EncoderPropagation both act on"),
        (["scheduler=flow_match_euler"], "is for flow matching, this model was trained for diffusion"),
        (["scheduler.options.solver_ordre=1"], "did you mean 'solver_order'"),
        (["scheduler.options.beta_start=abc"], "beta_start=abc does not fit this model"),
    ],
)
def test_what_does_not_fit_the_model(tiny, small, words, message, monkeypatch):
    """Told before the reference images are generated, which may take an hour."""
    monkeypatch.setattr(
        Sampler, "__call__", lambda *_: pytest.fail("images were generated before the mistake was told")
    )
    assert message in small(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["methods=[{mixed_resolution: {switch: 9}}]"], "switch=9 is outside this run of 4 steps"),
        (["methods=[{mixed_resolution: {switch: 1.0}}]"], "switch=1.0 leaves no step at full size in 4 steps"),
        (["methods=[{cross_attention_cache: {gate: 9}}]"], "gate=9 is outside this run of 4 steps"),
        (["methods=[{tgate: {gate: 9}}]"], "gate=9 is outside this run of 4 steps"),
        (["methods=[{deepcache: {restarts: [9]}}]"], "restarts=9 is outside this run of 4 steps"),
        (["methods=[{deepcache: {schedule: nonuniform, center: 9}}]"], "center=9 is outside this run of 4 steps"),
        (["scheduler=pndm", "methods=[{mixed_resolution: {history: reset}}]"], "use history='keep' or 'bilinear'"),
        (["guidance_scale=1.0", "methods=[cfg_cutoff]"], "this run has no guidance to cut off"),
        (["model={lcm}", "methods=[cfg_cutoff]"], "this run has no guidance to cut off"),
        (["scheduler=lcm", "steps=60"], "make sure to either reduce `num_inference_steps`"),
        (["height=30"], "divisible by 8"),
    ],
)
def test_what_does_not_fit_the_run(tiny, small, words, message):
    assert message.lower() in small(*words).lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"schema": SCHEMA + 1}), f"this PostDiff reads {SCHEMA}; run the row again"),
        (json.dumps({"schema": SCHEMA}), "is not a whole record: it lacks kind; remove it"),
        ("{", "is not a record: it is not JSON; remove it"),
    ],
)
def test_records_that_cannot_be_read(tiny, outputs, refused, text, message):
    file = fresh_path("tiny", "plain")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert message in refused("table", "tiny")


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
    assert "run once without HF_HUB_OFFLINE" in refused("run", "tiny", "model=far", "metrics=[paired_psnr]")


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

    monkeypatch.setattr("postdiff.lab.row.measure", full)
    assert "No space left on device (somewhere)" in refused("run", "tiny")


def test_a_missing_extra(refused, monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning")

    monkeypatch.setitem(COMMANDS, "run", dataclasses.replace(COMMANDS["run"], act=missing))
    assert 'pip install "postdiff[lab]"' in refused("run")


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def broken(_):
        raise ValueError("a bug")

    monkeypatch.setitem(COMMANDS, "run", dataclasses.replace(COMMANDS["run"], act=broken))
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
