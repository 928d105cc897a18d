"""Cards of the models of 2026: counted from the command line, timed with random weights, and told off in one line."""

import json

import pytest
import yaml

from postdiff import catalog
from postdiff.cost import structure_file
from postdiff.lab.pipelines import cards
from postdiff.lab.records.record import Record
from tests.lab import modern_twins, test_tasks

CARDS = [*modern_twins.TWINS, "sdxl_refined"]
DATA = ["--rows", "steps_20", "steps=2", "--format", "json"]
QUICK = ("z_image_turbo", "sdxl_refined", "wan22_t2v_a14b")  # the others say the same, and take half a minute together
small_references = test_tasks.small_references


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CARDS]
)
def test_work_is_counted_without_weights(command, name):
    code, out, err = command("macs", "demo", f"model={name}", *DATA)
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["model"] == name and 0 < row["macs_t_dense"] < row["macs_t_all"] < row["total_t_all"]
    assert row["text_encoder_t_all"] > 0


@pytest.mark.parametrize("name", CARDS)
def test_cards_say_what_one_must_know(name):
    text, card = catalog.path("models", name).read_text(), cards.card(name)
    assert "icence" in text and card.summary
    for one in card.stages.values() or [card]:
        assert one.structure is not None and one.pipeline == structure_file.read(one.structure).content["pipeline"]


def widths(pipe):
    """Channels of what stands for prompts, by the last part of its name."""
    config = pipe.transformer.config if hasattr(pipe, "transformer") else pipe.unet.config
    names = ("joint_attention_dim", "cap_feat_dim", "caption_channels", "text_embed_dim", "text_dim")
    text = next((config[name] for name in names if config.get(name)), None) or config["cross_attention_dim"]
    return {"prompt_embeds": text, "pooled_prompt_embeds": 24}


def shrunk(structure, pipe):
    """A structure with the parts of a tiny twin in the place of the published ones."""
    content = structure_file.read(structure).content

    def part(module):
        config = {key: value for key, value in json.loads(module.to_json_string()).items() if not key.startswith("_")}
        return {"class": type(module).__name__, "config": config}

    conditions = {}
    for key, shape in content["conditions"].items():
        width = next((each for last, each in widths(pipe).items() if key.removeprefix("negative_") == last), None)
        conditions[key] = shape if width is None else [*shape[:-1], width]
        conditions[key] = [6, *conditions[key][1:]] if len(conditions[key]) == 2 and width else conditions[key]
        if key.endswith("_mask"):
            conditions[key] = [6]
    found = {**content, "conditions": conditions, "vae": part(pipe.vae), "text_encoders": []}
    found["network"] = part(getattr(pipe, "transformer", None) or pipe.unet)
    if "second_network" in content:
        found["second_network"] = part(pipe.transformer_2)
    return found


@pytest.fixture
def tiny_structure(tiny, tmp_path, monkeypatch):
    """`tiny_structure(name)`: a card `small` like that one, of the structure of its twin."""

    def write(name):
        card = yaml.safe_load(catalog.path("models", name).read_text())
        kept = {
            key: card[key]
            for key in ("pipeline", "scheduler", "guidance_scale", "strength", "arguments", "lora")
            if key in card
        }
        files = {
            "models": {**kept, "structure": "small", "height": 32, "width": 32, "dtype": "float32"},
            "structures": shrunk(cards.card(name).structure, modern_twins.TWINS[name][0]()),
        }
        for kind, values in files.items():
            file = tmp_path / "mine" / "configs" / kind / "small.yaml"
            file.parent.mkdir(parents=True)
            file.write_text(yaml.safe_dump(values, sort_keys=False))
        monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")

    return write


@pytest.mark.slow
@pytest.mark.parametrize("name", modern_twins.TWINS)
def test_random_weights_are_timed(tiny_structure, small_references, outputs, command, name):
    tiny_structure(name)
    frames = [f"frames={test_tasks.FRAMES[name]}"] if name in test_tasks.FRAMES else []
    words = ["model=small", f"data={test_tasks.data_of(name)}", "weights=random", "steps=2", "bench.repeats=1"]
    one = ["batch_size=1"] if "edit" in name else []
    code, _, err = command("bench", "tiny", "--rows", "plain", *words, "bench.warmup=0", "count=1", *frames, *one)
    assert code == 0, err
    record = Record.read(outputs / "records" / "tiny" / "plain.speed.json")
    assert record.checkpoint == "random:small" and record.latency["median_s"] > 0
    assert record.macs["denoiser"]["all"] > 0 and record.macs["vae"]["all"] > 0


@pytest.mark.slow
def test_a_cascade_of_random_weights_is_timed(tiny, tmp_path, monkeypatch, outputs, command):
    card = yaml.safe_load(catalog.path("models", "sdxl_refined").read_text())
    sizes = {"base": {"height": 32, "width": 32}, "refiner": {"steps": 4, "arguments": {"denoising_start": 0.5}}}
    folder = tmp_path / "mine" / "configs"
    for kind in ("models", "structures"):
        (folder / kind).mkdir(parents=True)
    for name, twin in (("base", modern_twins.TWINS["sdxl_turbo"][0]()), ("refiner", modern_twins.sdxl_refiner())):
        stage = card["stages"][name]
        (folder / "structures" / f"{name}.yaml").write_text(yaml.safe_dump(shrunk(stage["structure"], twin)))
        kept = {key: stage[key] for key in ("pipeline", "scheduler", "guidance_scale")}
        card["stages"][name] = kept | sizes[name] | {"structure": name}
    card["stages"]["base"]["arguments"] = {"denoising_end": 0.5}
    (folder / "models" / "small.yaml").write_text(yaml.safe_dump(card | {"dtype": "float32"}, sort_keys=False))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")
    words = ["model=small", "data=emoji", "weights=random", "steps=4", "bench.repeats=1", "bench.warmup=0", "count=1"]
    code, _, err = command("bench", "tiny", "--rows", "plain", *words)
    assert code == 0, err
    record = Record.read(outputs / "records" / "tiny" / "plain.speed.json")
    assert record.checkpoint == "random:base+random:refiner" and record.latency["median_s"] > 0
    for part in ("denoiser", "denoiser:base", "denoiser:refiner", "vae:refiner"):
        assert record.macs[part]["all"] > 0, part
    assert record.counts["network calls"] == 4, "two of each stage's four steps"


@pytest.mark.parametrize(
    ("model", "data", "more", "message"),
    [
        ("sdxl_inpaint", "emoji_drawn", [], "needs a mask for each image, and data 'emoji_drawn' has none; name them"),
        (
            "sdxl_img2img",
            "emoji_masked",
            [],
            "data 'emoji_masked' has masks, and StableDiffusionXLImg2ImgPipeline takes",
        ),
        ("qwen_image_edit_2509", "emoji_edits", [], "batch_size=16: QwenImageEditPlusPipeline takes one prompt a call"),
        (
            "flux2_klein",
            "emoji_edits",
            ["batch_size=2"],
            "batch_size=2: Flux2KleinPipeline takes one prompt a call where",
        ),
        (
            "qwen_image_edit_2509",
            "emoji",
            ["batch_size=1"],
            "needs an image for each prompt, and data 'emoji' has none",
        ),
        ("qwen_image", "emoji_drawn", [], "data 'emoji_drawn' has images, and QwenImagePipeline takes none"),
        ("z_image", "emoji", ["strength=0.5"], "strength=0.5 is for image-to-image, and ZImagePipeline is none"),
        ("flux1_dev", "emoji", ["frames=5"], "frames=5 is for videos, and FluxPipeline makes single images"),
        ("sdxl_refined", "emoji", ["height=512"], "each stage of model 'sdxl_refined' has its own size"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(refused, model, data, more, message):
    words = [f"model={model}", f"data={data}", "metrics=[paired_psnr]", *more]
    assert message in refused("run", "demo", "--rows", "steps_20", *words)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("models", {"arguments": {"strenght": 1}}, "unknown argument of StableDiffusionPipeline 'strenght'"),
        (
            "models",
            {"arguments": {"guidance_scale": 1.0}},
            "unknown argument of StableDiffusionPipeline 'guidance_scale'",
        ),
        ("models", {"arguments": {"eta": float("nan")}}, "holds a number that is none; write another"),
        ("data", {"masks": "/nowhere"}, "masks /nowhere are missing; name another file or folder in the data card"),
        ("data", {"masks": "zoo/emoji/images"}, "has no mask of its name in"),
        ("data", {"images": None, "masks": "zoo/emoji/masks"}, "masks of no images; name the folder of those under"),
    ],
)
def test_broken_cards_are_told_in_one_line(tiny, tmp_path, monkeypatch, refused, kind, content, message):
    shipped = {"models": catalog.path("models", "emoji"), "data": catalog.path("data", "emoji_masked")}[kind]
    file = tmp_path / "mine" / "configs" / kind / "broken.yaml"
    file.parent.mkdir(parents=True)
    values = {**yaml.safe_load(shipped.read_text()), **content}
    file.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")
    words = {"models": ["model=broken"], "data": ["model=sdxl_inpaint", "data=broken"]}[kind]
    assert message in refused("run", "demo", "--rows", "steps_20", "metrics=[paired_psnr]", *words)
