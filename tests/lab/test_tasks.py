"""Cards of models that take more than text run from prompt to record: ControlNet, image-to-image, classes, video."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from diffusers import ControlNetModel
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image

from postdiff import hub
from postdiff.lab.config import experiment
from postdiff.lab.data.samples import Sample, Shard, batches, generator, part_of
from postdiff.lab.generate.pipelines import Pipelines
from postdiff.lab.pipelines import cards, models
from postdiff.lab.plan.plan import plan_rows
from postdiff.lab.records.record import Record
from postdiff.metrics.paired import psnr
from tests.lab import task_twins
from tests.support import hub_cache

pytestmark = pytest.mark.slow

OTHER = "0123456789abcdef0123456789abcdef01234567"
SMALL = ["height=32", "width=32", "dtype=float32", "count=2", "seeds=[0]", "bench.repeats=0", "metrics=[paired_psnr]"]
DATA = {
    **{"controlnet": "tiny_canny", "sd15_img2": "tiny_images", "sdxl_img2i": "tiny_images", "dit": "tiny_classes"},
    **{"sdxl_inpaint": "tiny_masked", "flux1_kontext": "tiny_images", "qwen_image_edit": "tiny_images"},
}
FRAMES = {"wan21_t2v_1_3b": 5, "wan22_t2v_a14b": 5, "hunyuan_video": 5, "ltx_video": 9}
# Guidance by two calls of the network a step.
TWO_CALLS = ("qwen_image", "qwen_image_edit_2509", "wan21_t2v_1_3b", "wan22_t2v_a14b")


def data_of(name):
    return next((data for start, data in DATA.items() if name.startswith(start)), "tiny")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """`saved(name)`: folders of the twin, by part of the card; in the card's variant if `variant` says so."""
    made = {}

    def save(name, variant=False):
        if (name, variant) not in made:
            kind = cards.card(name).variant if variant else None
            made[name, variant] = task_twins.save(name, tmp_path_factory.mktemp(name), kind)
        return made[name, variant]

    return save


@pytest.fixture
def on_hub(tmp_path, monkeypatch, saved):
    """`on_hub(name)` puts a card's model into an empty hub cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.commit.cache_clear()

    def put(name):
        card = cards.card(name)
        for key, folder in saved(name, variant=True).items():
            source = getattr(card, key) if key else card
            hub_cache.put(cache, source.hub, source.revision or OTHER, folder)
        return card

    yield put
    hub.commit.cache_clear()


@pytest.fixture
def small_references(monkeypatch):
    """Pipelines that edit bring a given image to about a megapixel."""
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda *_: (64, 64))
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(64, 64)])


@pytest.mark.parametrize("name", task_twins.TWINS)
def test_from_the_hub_to_a_record(tiny, outputs, on_hub, small_references, command, name):
    card = on_hub(name)
    length = 1 if card.frames is None else FRAMES.get(name, 3)
    frames = [] if card.frames is None else [f"frames={length}"]
    words = [f"model={name}", f"data={data_of(name)}", "steps=3", "reference_steps=4", *SMALL, *frames]
    one = ["batch_size=1"] if name == "qwen_image_edit_2509" else []
    code, _, err = command("run", "tiny", "--rows", "plain", *words, *one)
    assert code == 0, err
    record = Record.read(outputs / "records" / "tiny" / "plain.json")
    assert record.full and record.n_done == 2 * length
    assert 0 < record.metrics["paired_psnr"].value < 100
    assert record.checkpoint.startswith(f"{card.hub}@{card.revision or OTHER}")
    for key in ("controlnet", "motion_adapter"):
        assert (f"+{key}={getattr(card, key).hub}@{OTHER}" in record.checkpoint) == getattr(card, key).given
    calls = (2 if card.strength else 3) * (2 if name in TWO_CALLS else 1)
    assert record.counts["network calls"] == calls, "image-to-image starts late"
    assert ("controlnet calls" in record.counts) == name.startswith("controlnet")


def prepared(changes, **more):
    return plan_rows(experiment.load("tiny", {"count": 2, "seeds": [0], **changes, **more}).select(["plain"]))[0]


def test_classes_by_a_random_solver_draw_from_their_own_generators(tiny, saved):
    """DiT's pipeline hands its solver no generator."""
    plan = prepared({"model": str(saved("dit_xl_256")[""]), "data": "tiny_classes", "scheduler": "ddpm", "count": 3})
    sampler = Pipelines().sampler(plan)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    together = sampler.call(plan.samples).images
    assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
    alone = sampler.call(plan.samples[2:]).images
    assert torch.allclose(together[2:], alone, atol=1e-5)
    other = [Sample(sample.index, sample.prompt, sample.seed, label=4) for sample in plan.samples]
    assert not torch.allclose(sampler.call(other).images, together, atol=1e-3), "the class makes no difference"
    assert "step" not in vars(sampler.pipe.scheduler)


def test_a_video_is_kept_and_measured_as_its_frames(tiny, outputs, saved, command):
    folder = str(saved("videofusion")[""])
    words = [f"model={folder}", "steps=2", "reference_steps=3", "batch_size=1", *SMALL, "frames=3"]
    code, _, err = command("run", "tiny", "--rows", "plain", *words)
    assert code == 0, err
    record = Record.read(outputs / "records" / "tiny" / "plain.json")
    files = sorted((outputs / "images" / record.images / "0").iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(6)]
    assert record.config["frames"] == 3 and record.counts["network calls"] == 2
    assert record.metrics["paired_psnr"].n == 6
    rows = (outputs / "records" / "tiny" / "plain.csv").read_text().splitlines()[1:]
    values = [float(row.split(",")[3]) for row in rows]
    assert record.metrics["paired_psnr"].value == pytest.approx(sum(values) / 6, rel=1e-5)
    # A lost frame is generated again, with its video, and alone takes its place.
    frame, whole = files[4].read_bytes(), files[5].stat().st_mtime_ns
    files[4].unlink()
    (outputs / "records" / "tiny" / "plain.json").unlink()
    assert command("run", "tiny", "--rows", "plain", *words)[0] == 0
    assert files[4].read_bytes() == frame and files[5].stat().st_mtime_ns == whole


def test_frames_of_a_video_share_its_noise_and_stay_together():
    videos = [Sample(index, "a", seed, frames=4) for seed in (0, 1) for index in range(12)]
    assert generator(videos[1]).initial_seed() == generator(videos[0]).initial_seed()
    assert generator(videos[4]).initial_seed() == generator(Sample(1, "a", 0)).initial_seed()
    parts = [part_of(batches(videos, 2), Shard(i, 2)) for i in (1, 2)]
    assert [[len(batch) for batch in part] for part in parts] == [[8, 8], [8]], "whole batches of two videos"
    whole = [{(sample.call, sample.frame) for batch in part for sample in batch} for part in parts]
    assert not whole[0] & whole[1] and len(whole[0] | whole[1]) == 24
    assert all(len({sample.frame for sample in batch}) == 4 for part in parts for batch in part)


def test_ids_hold_what_decides_the_pixels(tiny, saved, tmp_path):
    def ids(data="tiny_images", **changes):
        plan = prepared({"model": str(tmp_path / "card"), "data": data}, **changes)
        return plan.run_id, plan.speed_id, plan.images_id, plan.references_id

    folder = saved("sd15_img2img")[""]
    (tmp_path / "card").symlink_to(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionImg2ImgPipeline"}))
    base = ids()
    assert ids() == base
    for other in (ids(strength=0.5), ids("tiny_canny")):
        assert all(one != two for one, two in zip(base, other, strict=True))
    image = tiny / "images" / "1.png"
    kept = image.read_bytes()
    try:
        image.write_bytes((tiny / "images" / "2.png").read_bytes())
        assert all(one != two for one, two in zip(base, ids(), strict=True))
    finally:
        image.write_bytes(kept)
        (folder / "model_index.json").write_text(json.dumps(index))
    video = {"model": str(saved("videofusion")[""])}
    assert len({prepared(video, frames=frames).images_id for frames in (None, 2, 3)}) == 3
    assert prepared(video).images_id == prepared(video, frames=16).images_id, "16 is the pipeline's own"


@pytest.fixture
def emoji_cards(tiny, tmp_path, monkeypatch):
    """The shipped model as image-to-image and under an untrained ControlNet, and one of its images to start from."""
    base = {"folder": "zoo/emoji", "height": 64, "width": 64, "guidance_scale": 4.0}
    plain = models.load(cards.card("emoji"), "float32", "cpu")
    # As many halvings as its autoencoder has.
    control = ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=(16, 32, 96))
    control.save_pretrained(tmp_path / "controlnet")
    drawn = plain("red heart", num_inference_steps=10, generator=torch.Generator().manual_seed(3), height=64, width=64)
    (tmp_path / "images").mkdir()
    drawn.images[0].save(tmp_path / "images" / "heart.png")
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "red heart"}) + "\n")
    conditioned = {"prompts": str(tmp_path / "one.jsonl"), "images": str(tmp_path / "images")}
    written = {
        "models/emoji_start": {**base, "pipeline": "StableDiffusionImg2ImgPipeline"},
        "models/emoji_control": {
            **base,
            "pipeline": "StableDiffusionControlNetPipeline",
            "controlnet": {"folder": str(tmp_path / "controlnet")},
        },
        "data/heart": conditioned,
        "data/heart_edges": {**conditioned, "condition": "canny"},
        "data/heart_alone": {"prompts": str(tmp_path / "one.jsonl")},
    }
    for name, content in written.items():
        file = tmp_path / "mine" / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")
    with Image.open(tmp_path / "images" / "heart.png") as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)[None]


def drawn(**changes):
    plan = prepared({"steps": 10, "count": 1, "metrics": ["paired_psnr"], **changes})
    sampler = Pipelines().sampler(plan)
    return sampler(plan.samples), sampler.watched.counts


def test_the_less_strength_the_more_of_the_image_stays(emoji_cards):
    shared = {"model": "emoji_start", "data": "heart", "guidance_scale": 1.0}
    like = [drawn(**shared, strength=strength) for strength in (0.1, 0.4, 1.0)]
    near = [float(psnr(images, emoji_cards)) for images, _ in like]
    assert near[0] > near[1] > near[2], near
    assert [counts["network calls"] for _, counts in like] == [1, 4, 10]


def test_an_untrained_controlnet_changes_nothing(emoji_cards):
    """Its residuals are zero, so what is generated must be what the model generates alone; but it runs at every
    step.
    """
    alone, _ = drawn(model="emoji", data="heart_alone")
    under, counts = drawn(model="emoji_control", data="heart_edges")
    assert (alone.int() - under.int()).abs().max() <= 1
    assert counts["controlnet calls"] == 10
    methods = [{"encoder_propagation": {"keys": [0, 1, 4]}}]
    _, counts = drawn(model="emoji_control", data="heart_edges", methods=methods)
    assert counts["controlnet calls"] == counts["network calls"] == 3


def small(saved, name, data="tiny", **changes):
    """The twin of a card, from its folder as it is, in two steps at 32 pixels."""
    card = {"model": str(saved(name)[""]), "data": data, "height": 32, "width": 32, "steps": 2, "count": 1}
    return drawn(**{**card, "guidance_scale": 4.0, **changes})[0]


def test_a_mask_says_what_is_repainted(tiny, saved, tmp_path, monkeypatch):
    """One file serves all images as well as a folder of one for each does."""
    Image.new("L", (48, 40), 255).save(tmp_path / "white.png")
    card = yaml.safe_load((tiny / "configs" / "data" / "tiny_masked.yaml").read_text())
    file = tmp_path / "mine" / "configs" / "data" / "white.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({**card, "masks": str(tmp_path / "white.png")}))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")
    half, whole = (small(saved, "sdxl_inpaint", data, strength=1.0) for data in ("tiny_masked", "white"))
    assert not torch.equal(half, whole)
    model = {"model": str(saved("sdxl_inpaint")[""])}
    one, other = (prepared({**model, "data": data}) for data in ("tiny_masked", "white"))
    assert one.images_id != other.images_id and one.speed_id != other.speed_id
    assert one.entries[1].mask.name == "1.bmp" and {each.mask.name for each in other.entries} == {"white.png"}


def test_guidance_goes_where_it_has_an_effect(tiny, saved, tmp_path, monkeypatch):
    """Qwen-Image is guided by two branches, and needs a negative prompt for it, which its card has."""
    bare = [small(saved, "qwen_image", guidance_scale=scale) for scale in (1.0, 4.0)]
    assert torch.equal(*bare), "without a negative prompt"
    values = {
        "pipeline": "QwenImagePipeline",
        "folder": str(saved("qwen_image")[""]),
        "arguments": {"negative_prompt": " "},
    }
    file = tmp_path / "mine" / "configs" / "models" / "guided.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(values))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'mine'}")
    own = {"model": "guided", "data": "tiny", "height": 32, "width": 32, "steps": 2, "count": 2}
    guided = [drawn(**own, guidance_scale=scale) for scale in (1.0, 4.0)]
    assert not torch.equal(guided[0][0], guided[1][0])
    assert [counts["network calls"] for _, counts in guided] == [2, 4]
    assert torch.equal(guided[0][0][:1], bare[0])


@pytest.mark.parametrize("name", ["flux2_klein", "flux1_kontext"])
def test_an_image_may_be_edited_or_left_out(tiny, saved, small_references, name):
    size = {"height": 64, "width": 64, "batch_size": 1}
    alone, edited = (small(saved, name, data, **size) for data in ("tiny", "tiny_images"))
    assert alone.shape == edited.shape and not torch.equal(alone, edited)
