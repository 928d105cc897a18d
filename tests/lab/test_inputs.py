"""Images and classes of data cards: read, checked, cut to size, turned into conditions; and mistakes in them."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image

from postdiff.engine.errors import UsageError
from postdiff.lab.data import conditions, data_cards, image_files
from postdiff.lab.data.conditions import ConditionConfig
from postdiff.lab.pipelines import models
from postdiff.lab.pipelines.signature import signature_of
from tests.lab import task_twins, tiny_folder
from tests.support import tiny as tiny_pipelines
from tests.support import whole


@pytest.fixture
def images(tmp_path):
    """A folder of three images."""
    tiny_folder.save_images(tmp_path / "images", 3)
    return tmp_path / "images"


def card(tmp_path, lines, **keys):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data_cards.DataCard(prompts=str(file), **keys)


def test_images_belong_to_lines_in_order_or_by_name(tmp_path, images):
    lines = [{"prompt": "a"}, {"prompt": "b"}]
    in_order = data_cards.read(card(tmp_path, lines, images=str(images)))
    assert [entry.image.name for entry in in_order] == ["0.png", "1.png"]
    named = [{"prompt": "a", "image": "2.png"}, {"prompt": "b", "image": "0.png"}]
    assert [entry.image.name for entry in data_cards.read(card(tmp_path, named, images=str(images)))] == [
        "2.png",
        "0.png",
    ]


def test_classes_are_line_numbers_or_named(tmp_path):
    lines = [{"prompt": "tench"}, {"prompt": "goldfish"}]
    assert [entry.label for entry in data_cards.read(card(tmp_path, lines, classes=2))] == [0, 1]
    named = [{"prompt": "tench", "class": 7}, {"prompt": "goldfish", "class": 3}]
    assert [entry.label for entry in data_cards.read(card(tmp_path, named, classes=8))] == [7, 3]
    imagenet = data_cards.read(data_cards.card("imagenet"))
    assert [entry.label for entry in imagenet] == list(range(1000))
    assert (imagenet[0].prompt, imagenet[207].prompt, imagenet[999].prompt) == (
        "tench",
        "golden retriever",
        "toilet tissue",
    )


@pytest.mark.parametrize(
    ("lines", "keys", "message"),
    [
        ([{"prompt": "a"}] * 4, {"images": "images"}, "holds 3 images for 4 prompts"),
        ([{"prompt": "a"}], {"images": "nowhere"}, "image folder .* is missing"),
        ([{"prompt": "a", "image": "7.png"}], {"images": "images"}, r"7\.png, which .* names, is missing"),
        (
            [{"prompt": "a", "image": "0.png"}, {"prompt": "b"}],
            {"images": "images"},
            "1 of 2 lines have a key 'image'",
        ),
        ([{"prompt": "a", "image": "no.png"}], {"images": "images"}, r"image .*no\.png cannot be read"),
        ([{"prompt": "a"}], {"classes": 2}, "has 1 lines for classes=2"),
        ([{"prompt": "a", "class": 2}], {"classes": 2}, "class 2 is none of 0 to 1"),
        ([{"prompt": "a", "class": "x"}], {"classes": 2}, "class 'x' is none of 0 to 1"),
        ([{"prompt": "a", "class": 0}, {"prompt": "b"}], {"classes": 2}, "1 of 2 lines have a key 'class'"),
    ],
)
def test_mistakes_in_a_data_card(tmp_path, images, lines, keys, message):
    (images / "no.png").write_text("no image")
    if "4 prompts" in message:
        (images / "no.png").unlink()
    if "images" in keys:
        keys = {"images": str(tmp_path / keys["images"])}
    with pytest.raises(UsageError, match=message) as error:
        data_cards.read(card(tmp_path, lines, **keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"condition": "cany"}, "unknown condition 'cany'; did you mean 'canny'"),
        ({"condition": {"name": "canny", "options": {"hihg": 3}}}, "did you mean 'high'"),
        ({"condition": {"name": "none", "options": {"low": 3}}}, "condition 'none' has no options"),
        ({"condition": "canny", "images": None}, "condition 'canny' has no images"),
        ({"condition": "scribble"}, "needs the package controlnet_aux"),
        ({"classes": 0}, "classes=0 is too small"),
    ],
)
def test_cards_are_checked_when_named(tmp_path, monkeypatch, keys, message):
    file = tmp_path / "configs" / "data" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"prompts": "zoo/emoji/prompts.jsonl", "images": "images", **keys}))
    monkeypatch.setenv("POSTDIFF_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    with pytest.raises(UsageError) as error:
        data_cards.card("mine")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["canny", "scribble_xdog"])
def test_a_condition_without_opencv(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"pip install 'postdiff\[control\]'"):
        conditions.build(ConditionConfig(name))


def test_images_are_cut_to_the_middle_and_made_opaque(tmp_path):
    wide = np.zeros((10, 30, 4), dtype=np.uint8)
    wide[:, 10:20] = (200, 10, 10, 255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    fitted = np.array(conditions.prepared(tmp_path / "wide.png", (20, 20), ConditionConfig()))
    assert fitted.shape == (20, 20, 3) and (fitted[:, 5:15] == (200, 10, 10)).all()
    whole_image = np.array(conditions.prepared(tmp_path / "wide.png", (10, 30), ConditionConfig()))
    assert (whole_image[:, 0] == 255).all(), "what is transparent is white"


def test_canny_is_opencvs(images):
    found = np.array(conditions.prepared(images / "1.png", (40, 48), ConditionConfig("canny")))
    expected = cv2.Canny(np.array(Image.open(images / "1.png")), 100, 200)
    assert (found == expected[..., None]).all() and 0 < (expected > 0).mean() < 0.5
    looser = ConditionConfig("canny", {"low": 10, "high": 30})
    assert np.array(conditions.prepared(images / "1.png", (40, 48), looser)).mean() > found.mean()


def test_strokes_are_where_it_is_darker(tmp_path):
    page = np.full((64, 64, 3), 230, dtype=np.uint8)
    page[30:33, 8:56] = 40
    Image.fromarray(page).save(tmp_path / "line.png")
    found = np.array(conditions.prepared(tmp_path / "line.png", (64, 64), ConditionConfig("scribble_xdog")))[..., 0]
    assert (found[31, 12:52] == 255).all() and (found[:20] == 0).all() and set(np.unique(found)) == {0, 255}


def test_scribbles_come_from_controlnet_aux(images, monkeypatch):
    """Its network is not at hand here: what is asked of it, and what becomes of its answer."""
    asked = {}

    class Detector:
        @classmethod
        def from_pretrained(cls, repository):
            asked["repository"] = repository
            return cls()

        def __call__(self, image, **options):
            asked.update(options)
            return Image.new("L", (64, 64), 255)

    monkeypatch.setitem(sys.modules, "controlnet_aux", SimpleNamespace(HEDdetector=Detector))
    conditions._hed.cache_clear()
    found = conditions.prepared(images / "2.png", (40, 48), ConditionConfig("scribble"))
    conditions._hed.cache_clear()
    assert found.size == (48, 40) and found.mode == "RGB"
    resolution = {"detect_resolution": 40, "image_resolution": 40}
    assert asked == {"repository": "lllyasviel/Annotators", "scribble": True, **resolution}


def test_a_broken_image_is_named_when_it_is_drawn_on(images):
    file = images / "0.png"
    file.write_bytes(file.read_bytes()[:200])
    image_files.refuse_unreadable(file)  # the first bytes are sound
    with pytest.raises(UsageError, match=r"image .*0\.png cannot be read"):
        conditions.prepared(file, (32, 32), ConditionConfig())


def test_a_condition_that_fails(images, monkeypatch):
    monkeypatch.setattr(conditions.Canny, "__call__", lambda self, image: 1 / 0)
    with pytest.raises(UsageError, match=r"condition 'canny' fails on .*1\.png: division by zero; see to its options"):
        conditions.prepared(images / "1.png", (32, 32), ConditionConfig("canny"))


def test_a_subclass_takes_what_the_class_takes_that_it_passes_on_to():
    class Logged(StableDiffusionPipeline):
        def __call__(self, *args, steps_reported=None, **kwargs):
            return super().__call__(*args, **kwargs)

    class Deeper(Logged):
        def __call__(self, prompt=None, num_inference_steps=7, **kwargs):
            return super().__call__(prompt, num_inference_steps=num_inference_steps, **kwargs)

    class Own(StableDiffusionPipeline):
        def __call__(self, image, strength=0.5):
            raise NotImplementedError

    parent = signature_of(StableDiffusionPipeline)
    for child, extra, steps in ((Logged, {"steps_reported"}, parent.default_steps), (Deeper, {"steps_reported"}, 7)):
        found = signature_of(child)
        assert found.accepted == parent.accepted | extra and found.name == child.__name__
        assert (found.default_steps, found.prompts, found.image) == (steps, True, False)
    assert signature_of(Own).accepted == {"self", "image", "strength"}


@pytest.fixture(scope="session")
def models_of(tmp_path_factory):
    """Folders by kind of model."""
    root = tmp_path_factory.mktemp("kinds")
    plain, control = whole.sd15(), task_twins.controlnet()
    plain.save_pretrained(root / "plain")
    control.save_pretrained(root / "controlnet")
    tiny_pipelines.build("dit").pipe.save_pretrained(root / "dit")
    task_twins.text_to_video().save_pretrained(root / "video")
    return root


@pytest.fixture
def kinds(tiny, models_of, tmp_path, monkeypatch):
    """Model cards `tiny_control`, `tiny_start`, `tiny_mask`, `tiny_dit` and `tiny_video` beside those of `tiny`."""
    base = {"folder": str(models_of / "plain")}
    cards = {
        "tiny_control": {
            **base,
            "pipeline": "StableDiffusionControlNetPipeline",
            "controlnet": {"folder": str(models_of / "controlnet")},
        },
        "tiny_start": {**base, "pipeline": "StableDiffusionImg2ImgPipeline"},
        "tiny_mask": {**base, "pipeline": "StableDiffusionInpaintPipeline"},
        "tiny_dit": {"folder": str(models_of / "dit")},
        "tiny_video": {"folder": str(models_of / "video")},
    }
    for name, content in cards.items():
        file = tmp_path / "kinds" / "configs" / "models" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("POSTDIFF_PATH", f"{tiny}:{tmp_path / 'kinds'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model=tiny_control"],
            "StableDiffusionControlNetPipeline needs an image for each prompt, and data 'tiny' has",
        ),
        (["model=tiny_start"], "StableDiffusionImg2ImgPipeline needs an image"),
        (["model=tiny_mask", "data=tiny_images"], "needs a mask for each image, and data 'tiny_images' has none"),
        (["data=tiny_canny"], "data 'tiny_canny' has images, and StableDiffusionPipeline takes none"),
        (["model=tiny_dit"], "DiTPipeline takes no prompt but a class, and data 'tiny' has prompts; use data=imagenet"),
        (["data=tiny_classes"], "data 'tiny_classes' has classes, and StableDiffusionPipeline takes prompts"),
        (["strength=0.5"], "strength=0.5 is for image-to-image"),
        (["model=tiny_start", "data=tiny_images", "strength=0"], "strength=0 is too small; use one above 0"),
        (["frames=4"], "frames=4 is for videos, and StableDiffusionPipeline makes single images"),
        (["model=tiny_video", "frames=0"], "frames=0 is too small"),
        (["model=tiny_video", "step_scores=true"], "step_scores=true is for images"),
    ],
)
def test_model_and_data_must_fit(kinds, refused, words, message, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded before the mistake was told"))
    assert message in refused("run", "tiny", "--rows", "plain", "metrics=[paired_psnr]", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=tiny_dit", "data=tiny_classes", "height=64"], "generates at its own size, 32 x 32"),
        (["model=tiny_dit", "data=tiny_classes", "methods=[deepcache]"], "DeepCache needs a U-Net"),
        (
            ["model=tiny_video", "frames=2", "methods=[{encoder_propagation: {split: 2}}]"],
            "split=2 is for transformers; UNet3DConditionModel splits itself",
        ),
        (["model=tiny_video", "frames=2", "methods=[{deepcache: {branch: 9}}]"], "branch"),
    ],
)
def test_what_only_the_loaded_model_reports(kinds, refused, words, message):
    named = {word.partition("=")[0] for word in words}
    usual = [word for word in ("height=32", "width=32", "bench.repeats=0") if word.partition("=")[0] not in named]
    words = [*usual, *words]
    assert message in refused("run", "tiny", "--rows", "plain", "metrics=[paired_psnr]", "steps=2", *words)
