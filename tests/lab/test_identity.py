"""What an identity covers: all that decides what a model generates, wherever it comes from, and nothing else."""

import json
import shutil

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import save_file

from postdiff import hub, model_files
from postdiff.lab.config import experiment
from postdiff.lab.files.weights import Source, package_file
from postdiff.lab.pipelines import cards, models
from postdiff.lab.pipelines.adapters import Lora
from postdiff.lab.pipelines.cards import ModelCard, StageCard
from postdiff.lab.plan.plan import plan_rows
from postdiff.metrics.checkpoints import CLIP
from tests.lab import runs
from tests.support import hub_cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ("--rows", "plain", "steps=2", "count=1", "seeds=[0]", "metrics=[]", "bench.repeats=0")
DECIDING = (
    "model_index.json",
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")),
    *(
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/generation_config.json",
    ),
    "scheduler/scheduler_config.json",
    *(
        f"tokenizer/{file}"
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt")
    ),
    *(
        f"tokenizer/{file}"
        for file in ("special_tokens_map.json", "added_tokens.json", "spiece.model", "qwen.tiktoken")
    ),
    "tokenizer/chat_template.jinja",
)
IDLE = (
    *("README.md", "LICENSE", ".gitattributes", "image.png", "notes.txt", "all-in-one.safetensors", "weights.ckpt"),
    *("unet/README.md", "unet/LICENSE.txt", "unet/.gitattributes", "unet/example.png", "unet/__pycache__/unet.py"),
    *("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/decoy.safetensors"),
    *("text_encoder/pytorch_model.bin", "text_encoder/pytorch_model.bin.index.json", "text_encoder/tf_model.h5"),
    *("text_encoder/model.onnx", "vae/flax_model.msgpack", "safety_checker/config.json", "dual_encoder/config.json"),
)


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny pipeline."""
    return shutil.copytree(tiny / "model", tmp_path / "model")


def write(file, value):
    """Something new in a file, of the kind that its name promises."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        known = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**known, "new": value}))
    elif file.suffix == ".safetensors":
        save_file({"new": torch.tensor(value)}, file)
    else:
        file.write_text(f"new {value}")


def of(folder, **keys):
    return models.checkpoint(ModelCard(folder=str(folder), **keys))


@pytest.mark.parametrize("file", DECIDING)
def test_what_decides_is_covered(folder, file):
    found = {of(folder)}
    for value in (1, 2):
        write(folder / file, value)
        found.add(of(folder))
    assert len(found) == 3


@pytest.mark.parametrize("file", IDLE)
def test_what_decides_nothing_is_not(folder, file):
    before = of(folder)
    for value in (1, 2):
        write(folder / file, value)
        assert of(folder) == before


def test_the_same_values_are_the_same_however_they_are_laid_out(folder):
    before = of(folder)
    for file in folder.rglob("*.json"):
        values = json.loads(file.read_text())
        file.write_bytes(json.dumps({**values, "_name_or_path": "there"}, indent=7).replace("\n", "\r\n").encode())
    assert of(folder) == before


def test_a_copy_is_the_same_model(folder, tmp_path):
    assert of(shutil.copytree(folder, tmp_path / "elsewhere")) == of(folder)


@pytest.mark.parametrize("key", ["network", "vae", "controlnet", "motion_adapter"])
def test_parts_from_elsewhere(folder, tmp_path, key):
    part = tmp_path / "part"
    write(part / "config.json", 0)
    write(part / "diffusion_pytorch_model.safetensors", 0)
    keys = {"pipeline": "StableDiffusionPipeline", key: Source(folder=str(part))}
    found = {of(folder, **keys)}
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        write(part / file, 1)
        found.add(of(folder, **keys))
    assert len(found) == 3
    write(part / "README.md", 1)
    assert of(folder, **keys) in found


def test_adapters_and_stages(folder, tmp_path):
    write(tmp_path / "lora.safetensors", 0)
    stage = StageCard(folder=str(folder), lora=Lora(folder=str(tmp_path), weight_name="lora.safetensors"))
    chain = ModelCard(stages={"one": StageCard(folder=str(folder)), "two": stage})
    found = {models.checkpoint(chain)}
    for file in (tmp_path / "lora.safetensors", folder / "scheduler" / "scheduler_config.json"):
        write(file, 1)
        found.add(models.checkpoint(chain))
    assert len(found) == 3


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_of_variants_the_one_that_is_loaded_counts(folder, variant):
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        write(folder / part / f"{stem}.fp16.safetensors", 0)
    before = of(folder, variant=variant)
    write(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", 1)
    assert (of(folder, variant=variant) == before) == (variant is None)
    before = of(folder, variant=variant)
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", 1)
    assert (of(folder, variant=variant) == before) == (variant is not None)


def test_weights_in_pieces(folder):
    part = folder / "unet"
    (part / "diffusion_pytorch_model.safetensors").rename(part / "first.safetensors")
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"new": "first.safetensors"}}))
    found = {of(folder)}
    for file in (index, part / "first.safetensors"):
        write(file, 1)
        found.add(of(folder))
    assert len(found) == 3


@pytest.fixture
def snapshot(folder, tmp_path, monkeypatch):
    """The model as the hub's client keeps it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.commit.cache_clear()
    yield hub_cache.put(tmp_path / "hub", "some/model", COMMIT, folder)
    hub.commit.cache_clear()


@pytest.mark.parametrize("replaced", [False, True], ids=["written through the link", "in place of the link"])
@pytest.mark.parametrize(
    "file", ["scheduler/scheduler_config.json", "unet/diffusion_pytorch_model.safetensors", "README.md"]
)
def test_files_of_the_hub_that_were_changed_by_hand(snapshot, file, replaced):
    card = ModelCard(hub="some/model", revision=COMMIT)
    fetched = models.checkpoint(card)
    assert fetched == f"some/model@{COMMIT}", "as before anything was fetched"
    found = {fetched}
    for value in (1, 2):
        if replaced:
            (snapshot / file).unlink(missing_ok=True)
        write(snapshot / file, value)
        found.add(models.checkpoint(card))
    assert len(found) == (1 if file == "README.md" else 3)
    assert all(name.startswith(fetched) for name in found)


def test_the_shipped_models_are_known_as_in_the_records():
    card = cards.card("emoji")
    assert models.checkpoint(card) == "c354202d443a80eb"
    encoder = package_file(str(card.dual_encoder))
    weights = model_files.sha256(encoder / "model.safetensors")
    assert model_files.identity(model_files.of_part(encoder), encoder) == weights


@pytest.mark.parametrize("file", ["preprocessor_config.json", "config.json", "tokenizer.json", "model.safetensors"])
def test_networks_of_metrics(tiny, folder, monkeypatch, file):
    def ids():
        monkeypatch.setenv(CLIP.variable, str(folder / "dual_encoder"))
        config = tiny / "configs" / "models" / "mine.yaml"
        config.write_text(yaml.safe_dump({"folder": str(folder), "dual_encoder": str(folder / "dual_encoder")}))
        changes = {"model": "mine", "metrics": ["emoji_text_score", "clip_score"]}
        [plan] = plan_rows(experiment.load("tiny", changes).select(["plain"]))
        return plan.run_id, plan.images_id, CLIP.identity()

    try:
        before = ids()
        write(folder / "dual_encoder" / file, 1)
        after = ids()
    finally:
        (tiny / "configs" / "models" / "mine.yaml").unlink(missing_ok=True)
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False]


def test_the_class_that_a_card_names_counts(tiny, folder):
    """The same weights draw other images in another pipeline."""

    def ids(**keys):
        file = tiny / "configs" / "models" / "mine.yaml"
        file.write_text(yaml.safe_dump({"folder": str(folder), "height": 32, "width": 32, **keys}))
        [plan] = plan_rows(experiment.load("tiny", {"model": "mine"}).select(["plain"]))
        file.unlink()
        return plan.run_id, plan.images_id, plan.references_id

    plain = ids()
    assert ids(pipeline="StableDiffusionPipeline") == plain
    assert not set(ids(pipeline="LatentConsistencyModelPipeline")) & set(plain)


CHANGES = {
    "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
    "vae/config.json": {"scaling_factor": 0.9},
    "unet/config.json": {"act_fn": "gelu"},
    "text_encoder/config.json": {"hidden_act": "relu"},
    "tokenizer/tokenizer_config.json": {"pad_token": "a"},
}


def test_a_row_is_drawn_anew_after_each_change(tiny, outputs, folder, command):
    drawn = set()
    for file, change in {"model_index.json": {}, **CHANGES}.items():
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**values, **change}))
        code, _, err = command("run", "tiny", f"model={folder}", "height=32", "width=32", *WORDS)
        assert code == 0 and "done already" not in err, (file, err)
        found = runs.record(outputs, "plain")
        [[*_, pixels]] = runs.hashes(outputs, "plain")
        drawn.add((found.run_id, found.images, found.checkpoint, pixels))
    assert all(len(set(kind)) == 1 + len(CHANGES) for kind in zip(*drawn, strict=True))
    _, _, err = command("run", "tiny", f"model={folder}", "height=32", "width=32", *WORDS)
    assert "done already" in err
