"""A model card with stages, from `save_pretrained` folders to a record: one row, several pipelines."""

import copy
import json
import re

import huggingface_hub
import pytest
import torch
import yaml

from postdiff import hub
from postdiff.engine import plugins
from postdiff.lab.config import experiment
from postdiff.lab.data.samples import generator
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.pipelines import cards, models
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records.record import find
from tests.lab import task_twins
from tests.support import hub_cache

pytestmark = pytest.mark.slow

KEYS = {"base": [0, 1, 4], "x4": [0, 3]}
STAGED = {
    "base": {"methods": [{"encoder_propagation": {"keys": KEYS["base"]}}]},
    "x4": {"methods": [{"encoder_propagation": {"keys": KEYS["x4"], "decoding": "sequential"}}]},
}
FEW = {"count": 2, "seeds": [0], "batch_size": 2, "reference_steps": 7, "bench": {"repeats": 0}}


@pytest.fixture(scope="session")
def cascade_root(tmp_path_factory):
    """A folder for POSTDIFF_PATH beside the tiny one: model `three`, experiment `three`."""
    root = tmp_path_factory.mktemp("cascade")
    content = {
        "summary": "a cascade with and without propagation",
        "base": {"model": "three", "data": "tiny", "steps": 6, "metrics": ["paired_psnr"], **FEW},
        "rows": {
            "plain": {},
            "propagated": {"stages": STAGED, "reported": {"macs_g": 1.0}},
            "fewer": {"stages": {"x4": {"steps": 2, "scheduler": "dpm_solver"}, "larger": {"steps": 3}}},
        },
    }
    for kind, values in {"models": task_twins.cascade_card(root / "weights"), "experiments": content}.items():
        file = root / "configs" / kind / "three.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(values, sort_keys=False))
    return root


@pytest.fixture
def three(tiny, cascade_root, monkeypatch):
    """Makes the experiment `three` known."""
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{cascade_root}")
    return cascade_root


def plan(row="plain", **changes):
    return plan_rows(experiment.load("three", changes).select([row]))[0]


def drawn(*changes):
    """Images of row `plain` with each of the changes, from the same pipelines."""
    pipelines = Pipelines()
    plans = [plan(**change) for change in changes]
    return [pipelines.sampler(one).call(one.samples).images for one in plans]


def test_from_folders_to_records(three, outputs, command):
    code, out, err = command("run", "three")
    assert code == 0, err
    plain, propagated, fewer = (find("three", row) for row in ("plain", "propagated", "fewer"))
    assert all(one.full and 0 < one.metrics["paired_psnr"].value < 100 for one in (plain, propagated, fewer))
    assert plain.counts["network calls"] == 6 + 4 + 5
    assert propagated.counts["network calls"] == 3 + 4 + 5, "the first stage decodes in parallel, the last one does not"
    assert fewer.counts["network calls"] == 6 + 3 + 2
    assert propagated.counts["encoder_propagation decoded at once"] == 3
    for macs in (plain.macs, propagated.macs, fewer.macs):
        for convention in ("dense", "fvcore", "all"):
            by_stage = [macs[f"denoiser:{stage}"][convention] for stage in ("base", "larger", "x4")]
            assert sum(by_stage) == macs["denoiser"][convention] > 0
    assert propagated.macs["denoiser:larger"] == plain.macs["denoiser:larger"]
    for stage in KEYS:
        assert propagated.macs[f"denoiser:{stage}"]["dense"] < plain.macs[f"denoiser:{stage}"]["dense"]
    assert fewer.macs["denoiser:x4"]["dense"] == pytest.approx(plain.macs["denoiser:x4"]["dense"] * 2 / 5, rel=1e-6)
    assert plain.macs["text_encoder:base"]["dense"] > 0 and "text_encoder:larger" not in plain.macs, "encoded once"
    assert {name: stage["steps"] for name, stage in fewer.config["stages"].items()} == {"base": 6, "larger": 3, "x4": 2}
    assert [part.partition("=")[0] for part in plain.checkpoint.split(";")] == ["base", "larger", "x4"]
    assert [line.split()[1] for line in out.splitlines() if line.startswith(("plain", "propagated", "fewer"))][:3] == [
        "15", "15", "11",
    ]  # fmt: skip


def test_every_step_a_key_is_the_baseline_bit_for_bit(three):
    identity = {stage: {"methods": [{"encoder_propagation": {"keys": 1}}]} for stage in ("base", "larger", "x4")}
    plain, same, other = drawn({}, {"stages": identity}, {"stages": STAGED})
    assert torch.equal(plain, same)
    assert not torch.allclose(plain, other, atol=1e-3)
    assert plain.shape == (2, 3, 32, 32) and 0 <= plain.min() < plain.max() <= 1


def test_an_image_does_not_depend_on_its_batch_or_on_the_global_generator(three):
    sampler = Pipelines().sampler(plan("propagated", count=3))
    samples = sampler.plan.samples
    torch.manual_seed(1)
    before = torch.get_rng_state()
    together = sampler.call(samples).images
    assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
    alone = sampler.call(samples[2:]).images
    assert torch.allclose(together[2:], alone, atol=1e-3)  # thresholds by quantiles
    assert torch.equal(sampler.call(samples).images, together), "a second call differs"
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_the_first_stages_settings_are_the_rows_own(three):
    """Written beside `stages` or under the stage's name, it is the same run."""
    keys = STAGED["base"]["methods"]
    beside, under = plan(steps=5, methods=keys), plan(stages={"base": {"steps": 5, "methods": keys}})
    assert beside.run_id == under.run_id and beside.images_id == under.images_id
    assert under.config.steps == 5 and under.stages[0].steps == 5


def test_ids_hold_the_stages(three):
    plain = plan()
    changes = ({"steps": 2}, {"guidance_scale": 3.0}, {"scheduler": "dpm_solver"}, STAGED["x4"])
    ids = [plan(stages={"x4": change}).images_id for change in changes]
    assert len({plain.images_id, *ids}) == 5
    assert plan(stages={"x4": {"steps": 5}}).run_id == plain.run_id, "5 is the card's own"
    assert plan("propagated").references_id == plain.references_id == plan(stages={"x4": {"steps": 2}}).references_id
    assert plan(stages={"x4": {"reference_steps": 2}}).references_id != plain.references_id
    assert [stage.steps for stage in plain.reference().stages] == [7, 4, 5]
    assert not any(stage.methods for stage in plan("propagated").reference().stages)


def test_a_cascade_that_ends_in_pixels(three, tmp_path, monkeypatch):
    """Two stages, and the last one's images are in [-1, 1]: what is kept is in 0 to 255 all the same."""
    card = yaml.safe_load((three / "configs" / "models" / "three.yaml").read_text())
    card["stages"].pop("x4")
    file = tmp_path / "mine" / "configs" / "models" / "two.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(card, sort_keys=False))
    monkeypatch.setenv("POSTDIFF_PATH", ":".join([*map(str, plugins.roots()), str(tmp_path / "mine")]))
    sampler = Pipelines().sampler(plan(model="two"))
    made, floats = sampler(sampler.plan.samples), sampler.call(sampler.plan.samples).images
    assert made.shape == (2, 3, 16, 16) and floats.min() < -0.1
    assert torch.equal(made, ((floats / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8))


def test_a_stage_that_shares_text_loads_no_encoder(three):
    card = cards.card("three").stages["larger"]
    assert models.load(card, "float32", "cpu").text_encoder is None


def test_on_another_model_the_stages_are_left_out_and_the_record_says_so(three, outputs, command):
    words = ["model=tiny", "height=32", "width=32", "steps=2", "reference_steps=2", "count=1"]
    code, out, err = command("run", "three", "--rows", "fewer", *words)
    assert code == 0, err
    record = find("three", "fewer")
    assert record.changed["stages"] == {} == record.config["stages"] and record.config["model"] == "tiny"
    assert "stages={}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stages.x5.steps=2"], "unknown stage of model 'three' 'x5'; did you mean 'x4'"),
        (["stages.x4.setps=2"], "unknown key 'stages.x4.setps'; did you mean 'stages.x4.steps'"),
        (["stages.x4=2"], "stages.x4 has keys of its own"),
        (["stages=2"], "stages: Value '2' is no mapping"),
        (["stages.x4.steps=0"], "stages.x4.steps=0 is too small"),
        (["stages.x4.guidance_scale=-1"], "stages.x4.guidance_scale=-1 is too small"),
        (["stages.x4.scheduler=dimm"], "unknown scheduler 'dimm'; did you mean 'ddim'"),
        (["stages.x4.scheduler={name: ddim, options: {etaa: 1}}"], "stage 'x4': unknown option of scheduler ddim"),
        (["stages.larger.methods=[depcache]"], "stage 'larger': unknown"),
        (["stages.larger.methods=[{encoder_propagation: 2}]"], "stage 'larger': options of encoder_propagation"),
        (["stages.larger.methods=[deepcache, {encoder_propagation: {keys: 2}}]"], "stage 'larger': .* both act on"),
        (["stages.x4.methods=[{encoder_propagation: {keys: if_3_75}}]"], "stage 'x4': .* is for 75 steps"),
        (["height=64"], "each stage of model 'three' has its own size; leave height out"),
        (["strength=0.5"], "strength=0.5 is for image-to-image, and IFPipeline is none"),
        (["step_scores=true"], "step_scores=true"),
        (["model=tiny", "stages.x4.steps=2"], "stages are for a cascade, and model 'tiny' is one pipeline"),
        (["data=tiny_images"], "has images, and IFPipeline takes none"),
    ],
)
def test_mistakes_in_a_row(three, outputs, refused, words, message):
    assert re.search(message, refused("run", "three", "--rows", "plain", *words))
    assert not list(outputs.rglob("*.png")) and not list(outputs.rglob("*.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["stages"]["x4"].pop("folder"), "stage 'x4': give either 'folder' or 'hub', not both"),
        (lambda card: card["stages"]["x4"].update(folder="nowhere"), "stage 'x4': .* is not a diffusers pipeline"),
        (lambda card: card["stages"]["x4"].update(stpes=3), "did you mean 'stages.x4.steps'"),
        (lambda card: card["stages"]["x4"].update(arguments={"noise_lvl": 3}), "stage 'x4': .* 'noise_level'"),
        (lambda card: card["stages"]["x4"].update(arguments={"generator": 3}), "stage 'x4': unknown argument"),
        (lambda card: card["stages"]["base"].update(steps=3), "stage 'base': the steps of the first stage are the run"),
        (lambda card: card["stages"]["base"].update(shared_text=True), "stage 'base': the first stage has nobody"),
        (lambda card: card["stages"]["x4"].update(steps=0), "stages.x4.steps=0 is too small"),
        (lambda card: card.update(folder="here"), "'folder' belongs to one pipeline; write it under one of the stages"),
        (lambda card: card.update(height=64), "'height' belongs to one pipeline"),
        (lambda card: [card["stages"].pop(name) for name in ("base", "x4")], "one stage is no cascade"),
        (lambda card: [card["stages"].pop("base"), card["stages"]["larger"].pop("steps")], "first stage has nobody"),
        (
            lambda card: (
                [card["stages"].pop(name) for name in ("base", "larger")]
                and card["stages"].update(x4={**card["stages"]["x4"], "steps": None}, again=card["stages"]["x4"])
            ),
            "stage 'x4': .* goes on from an image, and the first stage has none",
        ),
        (lambda card: card["stages"].update(x4=card["stages"]["base"]), "stage 'x4': .* takes no image to go on"),
        (
            lambda card: card["stages"]["x4"].update(hub="a/b", folder=None),
            "stage 'x4': name the class of a pipeline from the hub",
        ),
        (lambda card: card.update(stages={"base": 1}), "stages.base has keys of its own"),
    ],
)
def test_mistakes_in_a_card(three, outputs, refused, tmp_path, monkeypatch, change, message):
    card = yaml.safe_load((three / "configs" / "models" / "three.yaml").read_text())
    change(card)
    file = tmp_path / "mine" / "configs" / "models" / "broken.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(json.loads(json.dumps(copy.deepcopy(card))), sort_keys=False))
    monkeypatch.setenv("POSTDIFF_PATH", ":".join([*map(str, plugins.roots()), str(tmp_path / "mine")]))
    assert re.search(message, refused("run", "three", "--rows", "plain", "model=broken"))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A hub cache with the twin of the shipped card `deepfloyd_if`; gives the commit that all its stages are at."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.commit.cache_clear()
    twins, commit = task_twins.cascade(), "0123456789abcdef" * 2 + "01234567"
    for name, stage in cards.card("deepfloyd_if").stages.items():
        folder = tmp_path / "saved" / name
        twins[task_twins.CASCADES["deepfloyd_if"][name]].save_pretrained(folder, variant=stage.variant)
        hub_cache.put(tmp_path / "hub", stage.hub, stage.revision or commit, folder)
    yield commit
    hub.commit.cache_clear()


def test_the_papers_rows_run_from_the_hub_with_their_own_steps_and_keys(tiny, outputs, published, command):
    few = ["data=tiny", "dtype=float32", "count=1", "seeds=[0]", "metrics=[]", "bench.repeats=0"]
    code, out, err = command("run", "faster_diffusion/table_1", "--rows", "if_ddpm_ours,if_dpmpp_ours", *few)
    assert code == 0, err
    ddpm, dpmpp = (find("faster_diffusion/table_1", row) for row in ("if_ddpm_ours", "if_dpmpp_ours"))
    assert ddpm.counts["network calls"] == 40 + 50 + 11 and dpmpp.counts["network calls"] == 12 + 20 + 9
    assert f"x4=stabilityai/stable-diffusion-x4-upscaler@{published}:fp16" in ddpm.checkpoint
    assert " 225 " in out and " 100 " in out


def test_the_papers_rows_are_checked_before_any_weight_is_there():
    rows = ["if_ddpm", "if_ddpm_ours"]
    plain, ours = plan_rows(experiment.load("faster_diffusion/table_1").select(rows))
    assert [stage.steps for stage in ours.stages] == [100, 50, 75]
    assert [len(stage.methods) for stage in ours.stages] == [1, 0, 1]
    assert plain.references_id == ours.references_id == plain.images_id


@pytest.fixture
def refined(tiny, tmp_path, monkeypatch):
    """Makes a tiny SDXL base with its refiner known as the model `refined`."""
    file = tmp_path / "mine" / "configs" / "models" / "refined.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(task_twins.refined_card(tmp_path / "weights"), sort_keys=False))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")


def test_a_refiner_goes_on_from_the_latents_of_its_base(refined):
    """As by hand: half of the noise levels each, and words by the encoders that each of them has."""
    given = {"model": "refined", "steps": 4, "count": 1, "seeds": [0], "metrics": ["paired_psnr"]}
    one = plan_rows(experiment.load("tiny", given).select(["plain"]))[0]
    sampler = Pipelines().sampler(one)
    made = sampler.call(one.samples).images
    assert {name: counts["network calls"] for name, counts in sampler.fast.by_stage.items()} == {
        "base": 2,
        "refiner": 2,
    }
    base, refiner = sampler.pipe.pipes.values()
    assert base.text_encoder is not None and refiner.text_encoder is None
    shared = {"num_inference_steps": 4, "guidance_scale": 5.0, "generator": [generator(one.samples[0])]}
    prompt = [one.samples[0].prompt]
    noisy = base(prompt, height=32, width=32, denoising_end=0.5, output_type="latent", **shared).images
    by_hand = refiner(prompt, image=noisy, denoising_start=0.5, output_type="pt", **shared).images
    assert torch.equal(made, by_hand)
