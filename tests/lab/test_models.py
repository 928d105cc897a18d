"""Every shipped card loads what it names, from a folder and from the hub, and says truly what it loaded."""

import importlib.util
import json
import re
import shutil
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
import yaml

from postdiff import accelerate, catalog, hub
from postdiff.engine.errors import UsageError
from postdiff.lab.files import weights
from postdiff.lab.pipelines import cards, models
from postdiff.lab.records.record import Record
from postdiff.methods import DeepCache, MixedResolution
from tests.lab import task_twins
from tests.support import hub_cache, whole

TWINS = {
    "sd15_512": whole.sd15,
    "sd15_768": whole.sd15,
    "sd15_lcm": whole.sd15_lcm,
    "sdxl": whole.sdxl,
    "sdxl_lcm": whole.sdxl,
    "pixart_alpha": whole.pixart_alpha,
    "pixart_sigma": whole.pixart_sigma,
}
COMMIT = re.compile(r"[0-9a-f]{40}")
OTHER = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """`published(name)`: a tiny twin of the card's model as it would be on the hub, in the variants that it has.

    It has the attributes folder, network (folder of the replacement, or None) and expected, an image of the twin.
    """
    made = {}

    def publish(name):
        twin = TWINS[name]
        if name not in made:
            card, folder, network = cards.card(name), tmp_path_factory.mktemp(name), None
            pipe = twin()
            pipe.set_progress_bar_config(disable=True)
            pipe.save_pretrained(folder, variant=card.variant)
            if card.network != weights.Source():
                network = tmp_path_factory.mktemp(f"{name}_network")
                pipe.unet = whole.sdxl_lcm_network()
                pipe.unet.save_pretrained(network, variant=card.network.variant)
            made[name] = SimpleNamespace(folder=folder, network=network, expected=whole.image(pipe))
        return made[name]

    return publish


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.commit.cache_clear()
    yield folder
    hub.commit.cache_clear()


@pytest.fixture
def downloaded(cache, published):
    """`downloaded(name)`: the card's model lies in the cache; gives what `published` gives."""

    def download(name):
        card, twin = cards.card(name), published(name)
        snapshot = hub_cache.put(cache, card.hub, card.revision, twin.folder)
        if twin.network is not None:
            hub_cache.put(cache, card.network.hub, card.network.revision, twin.network)
            shutil.rmtree(snapshot / "unet")  # what a card replaces is not fetched
        return twin

    return download


@pytest.fixture
def private(tmp_path, monkeypatch):
    """`private(name, **keys)`: a card of one's own in a folder of POSTDIFF_PATH; gives the parsed card."""

    def write(name, **keys):
        file = tmp_path / "mine" / "configs" / "models" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(keys))
        monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path / "mine"))
        return cards.card(name)

    return write


def same(one, other):
    """Equal but for rounding: weights mapped from a file are not aligned in memory, and products of one row show it."""
    return torch.allclose(one, other, rtol=0, atol=1e-6)


def hub_sources():
    """Every place on the hub that a shipped card names."""
    for name in catalog.names("models"):
        card = cards.card(name)
        for one in (card, *card.stages.values()):
            brought = (one, *cards.parts(one).values(), one.lora, one.custom_diffusion)
            yield from ((name, source) for source in brought if source.hub)


def test_hub_cards_are_pinned_to_a_commit_or_say_why_not():
    for name, source in hub_sources():
        said = "evision null is the" in (text := catalog.path("models", name).read_text()) or "revision is null" in text
        assert COMMIT.fullmatch(source.revision or "") or (source.revision is None and said), f"{name}: {source.hub}"


def test_every_hub_card_has_a_twin():
    assert {name for name, _ in hub_sources()} == {*TWINS, *task_twins.TWINS, *task_twins.CASCADES}


@pytest.mark.parametrize("name", TWINS)
def test_from_the_hub_without_network(downloaded, name):
    twin, card = downloaded(name), cards.card(name)
    pipe = models.load(card, "float32", "cpu")
    assert type(pipe).__name__ == card.pipeline
    assert same(whole.image(pipe), twin.expected)


@pytest.mark.parametrize("name", TWINS)
def test_from_a_folder(published, private, name):
    twin, shipped = published(name), cards.card(name)
    network = {} if twin.network is None else {"folder": str(twin.network), "variant": shipped.network.variant}
    card = private("mine", pipeline=shipped.pipeline, folder=str(twin.folder), variant=shipped.variant, network=network)
    assert same(whole.image(models.load(card, "float32", "cpu")), twin.expected)
    assert models.checkpoint(card).count("+") == len(network) // 2


@pytest.mark.parametrize("name", ["sd15_lcm", "sdxl_lcm"])
def test_methods_on_latent_consistency_models(downloaded, name):
    downloaded(name)
    pipe = models.load(cards.card(name), "float32", "cpu")
    bare = whole.image(pipe, num_inference_steps=4)
    fast = accelerate(pipe, [MixedResolution(beta=0.5, switch=0.5), DeepCache(interval=2, branch=1)])
    assert not torch.equal(whole.image(fast, num_inference_steps=4), bare)
    # One branch at any guidance scale, and a cheap step after each full one.
    assert fast.counts["network calls"] == fast.counts["network rows"] == 4
    assert fast.counts["deepcache hits"] == fast.counts["deepcache misses"] > 0
    assert torch.equal(whole.image(pipe, num_inference_steps=4), bare), "the pipeline was changed"


def test_guidance_reaches_latent_consistency_models(downloaded):
    downloaded("sdxl_lcm")
    pipe = models.load(cards.card("sdxl_lcm"), "float32", "cpu")
    assert not torch.equal(whole.image(pipe, guidance_scale=8.0), whole.image(pipe, guidance_scale=2.0))


def test_a_run_records_both_sources(tiny, outputs, downloaded, command):
    downloaded("sdxl_lcm")
    small = ["steps=2", "reference_steps=4", "height=32", "width=32", "dtype=float32", "count=1", "seeds=[0]"]
    words = ["model=sdxl_lcm", "metrics=[paired_psnr]", "bench.repeats=0", "--rows", "plain", *small]
    code, _, err = command("run", "tiny", *words)
    assert code == 0, err
    card = cards.card("sdxl_lcm")
    record = Record.read(outputs / "records" / "tiny" / "plain.json")
    assert record.checkpoint == f"{card.hub}@{card.revision}:fp16+{card.network.hub}@{card.network.revision}:fp16"
    assert record.counts["network rows"] == 2


def test_a_branch_is_recorded_as_its_commit(cache, private, published):
    hub_cache.put(cache, "some/model", OTHER, published("sd15_512").folder)
    card = private("mine", hub="some/model", variant="fp16")
    assert models.checkpoint(card) == f"some/model@{OTHER}:fp16"
    assert same(whole.image(models.load(card, "float32", "cpu")), published("sd15_512").expected)


def test_a_branch_that_moves_on_is_another_checkpoint(cache, private):
    hub_cache.point(cache, "some/model", "main", OTHER)
    card = private("mine", hub="some/model", revision="main")
    before = models.checkpoint(card)
    hub_cache.point(cache, "some/model", "main", OTHER[::-1])
    assert models.checkpoint(card) == before, "one run, two checkpoints"
    hub.commit.cache_clear()
    assert models.checkpoint(card) == f"some/model@{OTHER[::-1]}"


def test_a_branch_that_nobody_knows(cache, private):
    """A row can be prepared, so that tables and counts work offline, but not run."""
    card = private("mine", hub="some/model")
    assert models.checkpoint(card) == "some/model@main"
    with pytest.raises(UsageError, match="some/model@main is missing"):
        models.load(card, "float32", "cpu")


def test_other_weights_are_another_checkpoint(private, published):
    sdxl, lcm = published("sdxl"), published("sdxl_lcm")
    shared = {"pipeline": "StableDiffusionXLPipeline", "folder": str(sdxl.folder), "variant": "fp16"}
    plain = private("plain", **shared)
    replaced = private("replaced", **shared, network={"folder": str(lcm.network), "variant": "fp16"})
    assert models.checkpoint(replaced).startswith(models.checkpoint(plain) + "+")


def test_not_on_this_machine(cache):
    card = cards.card("sd15_512")
    assert models.checkpoint(card) == f"{card.hub}@{card.revision}:fp16"
    with pytest.raises(UsageError) as message:
        models.load(card, "float32", "cpu")
    line = str(message.value)
    assert f"{card.hub}@{card.revision} is missing" in line and str(cache) in line, "what was tried"
    assert "run once without HF_HUB_OFFLINE" in line and "model=/path/to/folder" in line, "how to get it"


def test_only_the_replacement_is_missing(downloaded, cache):
    downloaded("sdxl_lcm")
    shutil.rmtree(cache / "models--latent-consistency--lcm-sdxl")
    with pytest.raises(UsageError, match="latent-consistency/lcm-sdxl@.* is missing"):
        models.load(cards.card("sdxl_lcm"), "float32", "cpu")


def test_an_interrupted_download(downloaded, cache):
    downloaded("sd15_512")
    next(cache.rglob("snapshots/*/vae/*.safetensors")).unlink()
    with pytest.raises(UsageError, match="is missing or incomplete"):
        models.load(cards.card("sd15_512"), "float32", "cpu")


def test_a_cache_without_a_list_of_files(downloaded, cache):
    """As earlier hub clients leave it; what is missing is found out when it is loaded."""
    twin = downloaded("sd15_512")
    shutil.rmtree(next(cache.rglob("trees")))
    assert same(whole.image(models.load(cards.card("sd15_512"), "float32", "cpu")), twin.expected)
    next(cache.rglob("snapshots/*/vae/*.safetensors")).unlink()
    with pytest.raises(UsageError, match=r"cannot be loaded .*; fetch it again with a connection"):
        models.load(cards.card("sd15_512"), "float32", "cpu")


def test_a_hub_that_does_not_answer(cache, monkeypatch):
    class Refused(Exception):
        """What the hub's HTTP library raises is nobody's business here."""

    def refuse(*_, **__):
        raise Refused("a gated model\n\nask its owners")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", refuse)
    with pytest.raises(UsageError, match=r"could not be fetched \(Refused: a gated model ask its owners\); connect"):
        models.load(cards.card("sd15_512"), "float32", "cpu")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "either 'folder' or 'hub'"),
        ({"folder": "a", "hub": "b/c"}, "not both"),
        ({"hub": "b/c", "netwrok": {"hub": "d/e"}}, "did you mean 'network'"),
        ({"hub": "b/c", "network": {"hbu": "d/e"}}, "did you mean 'network.hub'"),
        ({"hub": "b/c", "network": {"hub": "d/e"}}, "name its class under 'pipeline'"),
        ({"hub": "b/c", "network": {"revision": "main"}}, "give 'network' either 'folder' or 'hub'"),
        ({"hub": "b/c", "network": {"hub": "d/e", "folder": "f"}}, "give 'network' either 'folder' or 'hub', not both"),
    ],
)
def test_cards_that_contradict_themselves(private, keys, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        private("mine", **keys)


def test_networks_are_checked(private, published, tmp_path):
    parts = {"pipeline": "StableDiffusionXLPipeline", "folder": str(published("sdxl").folder), "variant": "fp16"}
    network = tmp_path / "network"
    network.mkdir()
    card = private("mine", **parts, network={"folder": str(network)})
    for step in (models.checkpoint, lambda card: models.load(card, "float32", "cpu")):
        with pytest.raises(UsageError, match="is not a diffusers network: no config.json"):
            step(card)
    (network / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(UsageError, match="cannot be loaded as"):
        models.load(card, "float32", "cpu")
    (network / "diffusion_pytorch_model.bin").write_text("")
    with pytest.raises(UsageError, match=r"\.bin is in pickle format"):
        models.checkpoint(card)


def test_a_pipeline_class_that_diffusers_does_not_have(private, published):
    card = private("mine", pipeline="StableDiffusionXXLPipeline", folder=str(published("sdxl").folder))
    with pytest.raises(UsageError, match="no pipeline class 'StableDiffusionXXLPipeline'"):
        models.load(card, "float32", "cpu")


def test_a_tokenizer_that_needs_a_package(private, published, tmp_path, monkeypatch):
    folder = tmp_path / "published"
    shutil.copytree(published("pixart_alpha").folder, folder)
    (folder / "tokenizer" / "tokenizer.json").rename(folder / "tokenizer" / "spiece.model")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "sentencepiece" else find(name))
    with pytest.raises(UsageError, match="pip install sentencepiece"):
        models.load(private("mine", folder=str(folder)), "float32", "cpu")
