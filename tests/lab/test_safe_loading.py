"""Safetensors only: whatever a folder leads to, no pickle is opened, and one line says which file is wrong."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from postdiff.engine.errors import UsageError
from postdiff.lab.pipelines import models
from postdiff.lab.pipelines.adapters import CustomDiffusion, Embedding, Lora
from postdiff.lab.pipelines.cards import ModelCard, Source
from postdiff.metrics import clip
from postdiff.metrics.checkpoints import CLIP, PICK_SCORE
from postdiff.metrics.pick_score import PickScorer

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
RUN = (
    "run",
    "tiny",
    "--rows",
    "plain",
    "count=1",
    "seeds=[0]",
    "metrics=[]",
    "bench.repeats=0",
    "height=32",
    "width=32",
)


class Hostile:
    """Says that it was unpickled."""

    def __reduce__(self):
        return os.putenv, ("POSTDIFF_HOSTILE", "ran")


def hostile(file):
    """A pickle as torch writes them, whose code would end the test."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": Hostile()}, file)


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch):
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (torch.jit, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a pickle was opened"))


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny pipeline."""
    return shutil.copytree(tiny / "model", tmp_path / "m")


def index(part, stem, entry, name="{}.safetensors.index.json"):
    """A decoy in the place of a part's weights, and an index that leads elsewhere."""
    single = part / f"{stem}.safetensors"
    keys = list(load_file(single))
    single.rename(part / "decoy.safetensors")
    hostile(part / "evil.bin")
    (part / name.format(stem)).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, entry)}))


def instead(part, stem, name):
    """A pickle in the place of a part's weights, beside a decoy."""
    (part / f"{stem}.safetensors").rename(part / "decoy.safetensors")
    hostile(part / name)


def listed(part, stem):
    """Pickles in pieces, with their index."""
    instead(part, stem, "pytorch_model-00001-of-00001.bin")
    weights = {"weight_map": {"weight": "pytorch_model-00001-of-00001.bin"}, "metadata": {}}
    (part / "pytorch_model.bin.index.json").write_text(json.dumps(weights))


def overwritten(part, stem):
    hostile(part / f"{stem}.safetensors")


def laid_over(part, stem):
    """As PEFT saves an adapter, on weights that are anywhere."""
    (part / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/tmp"}))
    hostile(part / "adapter_model.bin")


TRICKS = {
    "an index to a pickle": (lambda part, stem: index(part, stem, "evil.bin"), "leads to 'evil.bin'"),
    "an index to another folder": (lambda part, stem: index(part, stem, "../a.safetensors"), "leads to '../a.safeten"),
    "an index to an absolute path": (lambda part, stem: index(part, stem, "/a.safetensors"), "leads to '/a.safet"),
    "an index to a Windows path": (lambda part, stem: index(part, stem, "..\\a.safetensors"), "leads to '..\\a.saf"),
    "an index to nothing": (lambda part, stem: index(part, stem, ""), "leads to ''"),
    "an index to a number": (lambda part, stem: index(part, stem, 3), "leads to '3'"),
    "an index to what is missing": (lambda part, stem: index(part, stem, "a.safetensors"), "lists 'a.safetensors'"),
    "an index of a variant": (
        lambda part, stem: index(part, stem, "evil.bin", "{}.safetensors.index.fp16.json"),
        "evil.bin is in pickle format",
    ),
    "a pickle beside a decoy": (lambda part, stem: instead(part, stem, f"{stem}.bin"), ".bin is in pickle format"),
    "a pickle of transformers": (lambda part, stem: instead(part, stem, "pytorch_model.bin"), "model.bin is in pickle"),
    "an old ending": (lambda part, stem: instead(part, stem, f"{stem}.ckpt"), "ckpt is in pickle format"),
    "pickles in pieces": (listed, "pytorch_model-00001-of-00001.bin is in pickle format"),
    "a pickle by another name": (overwritten, "is a pickle by another name"),
    "an adapter of PEFT": (laid_over, "adapter_config.json lays a LoRA over the weights"),
}


@pytest.mark.parametrize("part", STEMS)
@pytest.mark.parametrize("trick", TRICKS)
def test_a_part_of_a_pipeline(tiny, outputs, folder, refused, part, trick):
    spoil, message = TRICKS[trick]
    spoil(folder / part, STEMS[part])
    line = refused(*RUN, f"model={folder}")
    assert message in line and f"{folder}/{part}/" in line and len(line) < 350, line
    assert not (outputs / "images").exists()


@pytest.mark.parametrize("key", ["network", "vae", "controlnet", "motion_adapter"])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_network_from_elsewhere(folder, key, trick):
    part = folder / ("vae" if key == "vae" else "unet")
    other = shutil.copytree(part, folder.parent / "part")
    TRICKS[trick][0](other, STEMS["unet"])
    card = ModelCard(folder=str(folder), pipeline="StableDiffusionPipeline", **{key: Source(folder=str(other))})
    for step in (models.checkpoint, lambda card: models.load(card, "float32", "cpu")):
        with pytest.raises(UsageError) as error:
            step(card)
        assert TRICKS[trick][1] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_network_of_a_metric(folder, monkeypatch, trick):
    encoder = folder / "dual_encoder"
    kept = shutil.copy(encoder / "model.safetensors", folder)
    TRICKS[trick][0](encoder, "model")
    if not (encoder / "model.safetensors").is_file():  # the loaders below ask for it first
        shutil.copy(kept, encoder / "model.safetensors")
        for pickled in encoder.glob("*.ckpt"):
            pickled.unlink()
    monkeypatch.setenv(PICK_SCORE.variable, str(encoder))
    loaders = (lambda: clip.dual_encoder(encoder), lambda: clip.load(str(encoder), CLIP), PickScorer.load)
    beside = trick.startswith(("a pickle beside", "a pickle of", "an old", "pickles in", "an index of a variant"))
    for load in loaders:
        if beside:
            load()  # of two, the safe one is read
            continue
        with pytest.raises(UsageError) as error:
            load()
        assert TRICKS[trick][1] in str(error.value)


def test_pickles_that_are_not_loaded_do_no_harm(tiny, outputs, folder, command):
    for part, stem in STEMS.items():
        hostile(folder / part / f"{stem}.bin")
        hostile(folder / part / "pytorch_model.bin")
    for name in ("pytorch_model.bin", "config.json", "model.safetensors"):
        hostile(folder / "safety_checker" / name)
    found = json.loads((folder / "model_index.json").read_text())
    found["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(found))
    code, _, err = command(*RUN, f"model={folder}")
    assert code == 0, err


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", "cannot be loaded as StableDiffusionPipeline"),
        ("tokenizer_config.json", "tokenizer_config.json cannot be read as JSON"),
    ],
)
def test_a_tokenizer_that_is_a_pickle(tiny, outputs, folder, refused, file, message):
    hostile(folder / "tokenizer" / file)
    assert message in refused(*RUN, f"model={folder}")


def test_a_tokenizer_without_words(tiny, outputs, folder, refused):
    (folder / "tokenizer" / "tokenizer.json").unlink()
    hostile(folder / "tokenizer" / "spiece.model")
    assert "tokenizer has no vocabulary (vocab.json or merges.txt" in refused(*RUN, f"model={folder}")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.bin", "is not in safetensors format"), ("a.safetensors", "is a pickle by another name")],
)
@pytest.mark.parametrize("kind", [Lora, CustomDiffusion, Embedding])
def test_an_adapter_that_is_a_pickle(folder, tmp_path, kind, name, message):
    hostile(tmp_path / name)
    source = kind(folder=str(tmp_path), weight_name=name)
    key = {Lora: "lora", CustomDiffusion: "custom_diffusion", Embedding: "embeddings"}[kind]
    card = ModelCard(folder=str(folder), **{key: [source] if kind is Embedding else source})
    for step in (models.checkpoint, lambda card: models.load(card, "float32", "cpu")):
        with pytest.raises(UsageError, match=message):
            step(card)


@pytest.mark.parametrize("kind", [Lora, CustomDiffusion, Embedding])
def test_an_adapter_cut_short(folder, tmp_path, kind):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:30])
    source = kind(folder=str(tmp_path), weight_name="a.safetensors")
    key = {Lora: "lora", CustomDiffusion: "custom_diffusion", Embedding: "embeddings"}[kind]
    card = ModelCard(folder=str(folder), **{key: [source] if kind is Embedding else source})
    with pytest.raises(UsageError, match="does not fit StableDiffusionPipeline"):
        models.load(card, "float32", "cpu")


@pytest.mark.parametrize("value", ["/other/config.json", "somebody/model", [1], 3])
@pytest.mark.parametrize(
    "file", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
)
def test_a_config_that_is_a_name(tiny, outputs, folder, refused, file, value):
    (folder / file).write_text(json.dumps(value))
    assert f"{folder / file} holds no keys" in refused(*RUN, f"model={folder}")


@pytest.mark.parametrize("name", ["adapter_model.bin", "../a.safetensors"])
def test_a_config_that_names_its_weights(tiny, outputs, folder, refused, name):
    part = folder / "text_encoder"
    config = json.loads((part / "config.json").read_text())
    (part / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    hostile(part / "adapter_model.bin")
    assert "names weights of its own under 'transformers_weights'" in refused(*RUN, f"model={folder}")


@pytest.mark.parametrize("part", [*STEMS, "scheduler", "tokenizer"])
def test_a_part_is_not_looked_for_elsewhere(tiny, outputs, folder, refused, part):
    """The libraries would go on in the pipeline's own folder."""
    shutil.copytree(folder / part, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / part)
    assert f"no folder of its part '{part}'" in refused(*RUN, f"model={folder}")


@pytest.mark.parametrize("named", [["os", "system"], ["evil", "Evil"], ["postdiff.cli", "main"]])
def test_a_part_from_another_library(tiny, outputs, folder, refused, named):
    (folder / "unet" / f"{named[0]}.py").write_text("raise SystemExit('code ran')\n")
    found = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**found, "unet": named}))
    line = refused(*RUN, f"model={folder}")
    assert "cannot be loaded as StableDiffusionPipeline" in line and len(line) < 350


@pytest.mark.parametrize("kept", [0, 3])
def test_weights_that_lack_some(tiny, outputs, folder, refused, kept):
    """Transformers would fill in random numbers, and say so among its warnings."""
    file = folder / "text_encoder" / "model.safetensors"
    found = load_file(file)
    save_file(dict(list(found.items())[:kept]), file, metadata={"format": "pt"})
    message = refused(*RUN, f"model={folder}")
    assert (
        "cannot be loaded as StableDiffusionPipeline" in message
        and "weights of its CLIPTextModel are missing" in message
    )
