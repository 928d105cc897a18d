"""Metrics of single images against transformers, scikit-image and formulas written out here."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPModel, CLIPProcessor

from postdiff.engine.errors import UsageError
from postdiff.metrics import clip as clip_model
from postdiff.metrics import perceptual
from postdiff.metrics.base import Resources
from postdiff.metrics.clip_score import ClipOptions, ClipScore, ClipScoreW25
from postdiff.metrics.paired import PairedPSNR, PairedSSIM
from postdiff.metrics.perceptual import DISTSOptions, LPIPSOptions
from postdiff.model_files import sha256
from postdiff.zoo import ALEXNET
from tests.lab import tiny_folder
from tests.metrics import networks

PROMPTS = ["a heart", "an apple", "a dog"]
EXAMPLES = os.environ.get("POSTDIFF_LPIPS_EXAMPLES")
NONE = Resources("none", Path("none"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    tiny_folder.save_encoder(folder)
    return folder


def near(images):
    noise = torch.randint(-30, 31, images.shape, generator=torch.Generator().manual_seed(3))
    return (images.int() + noise).clamp(0, 255).to(torch.uint8)


def test_psnr_and_ssim_are_those_of_scikit_image():
    images = networks.images(1, 3)
    references = near(images)
    psnr, ssim = PairedPSNR(), PairedSSIM()
    for metric in (psnr, ssim):
        metric.update(images, references)
    pairs = [(x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy()) for x, y in zip(references, images, strict=True)]
    expected = [skimage.metrics.peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs]
    assert psnr.last.tolist() == pytest.approx(expected, rel=1e-9)
    for found, (x, y) in zip(ssim.last.tolist(), pairs, strict=True):
        whole = skimage.metrics.structural_similarity(
            x,
            y,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1]
        # Borders are logged in another way there, and cut off here and there.
        assert found == pytest.approx(whole.mean(), abs=5e-3)


def test_clip_score_is_that_of_transformers(clip_folder):
    images = networks.images(1, 3, 32)
    processor, model = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    given = processor(text=PROMPTS, images=list(images), padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits = model(**given).logits_per_image / model.logit_scale.exp()
    expected = logits.diagonal().numpy()
    clip = clip_model.load(str(clip_folder))
    score, scaled = ClipScore(clip, ClipOptions()), ClipScoreW25(clip, ClipOptions())
    for metric in (score, scaled):
        metric.update(images, PROMPTS)
    assert score.last.tolist() == pytest.approx(100 * expected, abs=1e-3)
    assert scaled.last.tolist() == pytest.approx(2.5 * np.maximum(expected, 0), abs=1e-5)
    assert np.abs(expected).max() > 0.01


def test_a_score_below_zero_is_kept_in_one_scale_and_not_in_the_other(clip_folder):
    clip = clip_model.load(str(clip_folder))
    below = torch.tensor([-0.5, 0.25])
    assert ClipScore(clip, ClipOptions()).scaled(below).tolist() == [-50, 25]
    assert ClipScoreW25(clip, ClipOptions()).scaled(below).tolist() == [0, 0.625]


def test_a_template_is_what_the_text_tower_reads(clip_folder):
    clip = clip_model.load(str(clip_folder))
    images = networks.images(1, 3, 32)
    templated, written = ClipScore(clip, ClipOptions(template="see {prompt}")), ClipScore(clip, ClipOptions())
    templated.update(images, PROMPTS)
    written.update(images, [f"see {prompt}" for prompt in PROMPTS])
    assert templated.last.tolist() == written.last.tolist()
    identity = templated.identity()
    assert (identity["template"], identity["model"]) == ("see {prompt}", "tiny-clip")
    assert len(identity["checkpoint"]) == 16 and {"resize", "dtype", "formula"} <= set(identity)


def test_a_folder_that_is_no_clip_model(tmp_path):
    with pytest.raises(UsageError, match=r"has no model\.safetensors"):
        clip_model.load(str(tmp_path))
    with pytest.raises(UsageError, match="model=/no/such is no folder"):
        clip_model.load("/no/such")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UsageError, match="is no CLIP model with processor"):
        clip_model.load(str(tmp_path))


def test_open_clip_is_asked_for_by_name_of_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UsageError, match=r'pip install "postdiff\[metrics\]"'):
        clip_model.load("open_clip:ViT-g-14/laion2b_s34b_b88k")


def test_open_clip_from_a_file(tmp_path):
    import open_clip

    tower = {"width": 16, "layers": 1, "heads": 2}
    shape = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, **tower},
    }
    (tmp_path / "tiny-open-clip.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path / "tiny-open-clip.json")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("tiny-open-clip")
    model.eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    images = networks.images(1, 3, 40)
    with torch.no_grad():
        pixels = torch.stack([transform(to_pil_image(image)) for image in images])
        one_image, text = model.encode_image(pixels), model.encode_text(open_clip.tokenize(PROMPTS))
    expected = 100 * nn.functional.cosine_similarity(one_image, text)
    metric = ClipScore(clip_model.load(f"open_clip:tiny-open-clip/{tmp_path}/weights.pt"), ClipOptions())
    metric.update(images, PROMPTS)
    assert metric.last.tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert metric.identity()["model"] == "open_clip:tiny-open-clip"
    with pytest.raises(UsageError, match="knows no model 'ViT-Z'"):
        clip_model.load("open_clip:ViT-Z/openai")
    with pytest.raises(UsageError, match="has no weights 'laion'; use a file or one of openai"):
        clip_model.load("open_clip:ViT-B-32/laion")


def backbone(make, file):
    """Saves a network of torchvision with random weights; gives its state."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in make().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    # The layers that nobody looks at here are one number each, or the file would have half a gigabyte.
    state = {
        name: 0.05 * torch.randn(shape, generator=generator) if "features" in name else torch.zeros(1).expand(shape)
        for name, shape in shapes.items()
    }
    torch.save(state, file)
    return state


def plain_lpips(state, images, references):
    """Zhang et al. 2018: over layers, the mean over places of the weighted squares between unit feature vectors."""
    with torch.device("meta"):
        layers = torchvision.models.alexnet().features.eval()
    kept = {key.removeprefix("features."): value.float() for key, value in state.items() if "features" in key}
    layers.load_state_dict(kept, assign=True)
    from torchmetrics.functional.image import lpips as theirs

    weights = torch.load(str(theirs.__file__).replace("lpips.py", "lpips_models/alex.pth"), map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    sides = [((each / 127.5 - 1) - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for each in (images, references)]
    expected = torch.zeros(len(images))
    number = 0
    with torch.no_grad():
        for layer in layers[:-1]:
            sides = [layer(side) for side in sides]
            if isinstance(layer, nn.ReLU):
                x, y = (side / side.square().sum(1, keepdim=True).sqrt().clamp(min=1e-8) for side in sides)
                weight = weights[f"lin{number}.model.1.weight"]
                expected += ((x - y).square() * weight).sum(1).mean((1, 2))
                number += 1
    assert number == 5
    return expected.tolist()


def test_lpips_is_the_weighted_distance_of_unit_features(tmp_path):
    images = networks.images(1, 2, 64)
    file = tmp_path / "alex.pth"
    state = backbone(torchvision.models.alexnet, file)
    references = near(images)
    metric = perceptual.LPIPS(LPIPSOptions(weights=str(file)))
    metric.update(images, references)
    assert metric.last.tolist() == pytest.approx(plain_lpips(state, images, references), rel=1e-3)
    same = perceptual.LPIPS(LPIPSOptions(weights=str(file)))
    same.update(images, images)
    assert same.last.tolist() == [0, 0]
    assert same.identity()["model"] == "LPIPS 0.1, alex"


@pytest.fixture
def no_alexnet_named(monkeypatch):
    """Nothing names a file of AlexNet, and nothing may be fetched."""
    monkeypatch.delenv("POSTDIFF_ALEXNET", raising=False)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("it was fetched"))


def pixels(file):
    """(1, 3, H, W), uint8."""
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None]


def test_lpips_of_images_too_small_for_its_network_is_refused(no_alexnet_named):
    metric = perceptual.LPIPS(LPIPSOptions())
    small = torch.zeros(1, 3, 30, 64, dtype=torch.uint8)
    with pytest.raises(UsageError, match="needs images of at least 31 pixels a side, these have 64 x 30"):
        metric.update(small, small)
    metric.update(*(torch.zeros(1, 3, 31, 31, dtype=torch.uint8),) * 2)
    assert float(metric.compute()) == 0


def test_lpips_with_the_shipped_weights_on_a_stored_pair(no_alexnet_named):
    image, reference = pixels(Path(__file__).with_name("lpips_pair.png")).split(48, dim=3)
    metric = perceptual.LPIPS(LPIPSOptions())
    metric.update(image, reference)
    assert metric.last.dtype == torch.float32 and metric.last.item() > 0.01
    assert metric.last.tolist() == pytest.approx(plain_lpips(load_file(ALEXNET), image, reference), abs=1e-5)


@pytest.mark.skipif(not EXAMPLES, reason="set POSTDIFF_LPIPS_EXAMPLES to the folder `imgs` of the LPIPS repository")
@pytest.mark.parametrize(("name", "published"), [("ex_p0", 0.722), ("ex_p1", 0.138)])
def test_lpips_of_its_authors_example_images_is_what_they_publish(no_alexnet_named, name, published):
    metric = perceptual.LPIPS(LPIPSOptions())
    metric.update(*(pixels(Path(EXAMPLES) / f"{each}.png") for each in (name, "ex_ref")))
    assert metric.last.item() == pytest.approx(published, abs=1e-3)


def test_the_identity_names_the_weights_that_ship_or_those_named(no_alexnet_named, monkeypatch, tmp_path):
    file = tmp_path / "alex.pth"
    backbone(torchvision.models.alexnet, file)
    shipped, other = sha256(ALEXNET), sha256(file)
    assert shipped in (ALEXNET.parent / "NOTICE").read_text() and shipped != other
    for options, expected in ((LPIPSOptions(), shipped), (LPIPSOptions(weights=str(file)), other)):
        assert perceptual.LPIPS.rests_on(options, NONE) == [expected[:16]]
        assert perceptual.LPIPS(options).identity()["checkpoint"] == expected[:16]
    monkeypatch.setenv("POSTDIFF_ALEXNET", str(file))
    assert perceptual.LPIPS.rests_on(LPIPSOptions(), NONE) == [other[:16]]
    assert perceptual.LPIPS(LPIPSOptions()).identity()["checkpoint"] == other[:16]
    # One that is named and missing is not replaced by the shipped one in silence.
    monkeypatch.setenv("POSTDIFF_ALEXNET", str(tmp_path / "none.pth"))
    with pytest.raises(UsageError, match=r"AlexNet, and there is no file .*none\.pth; get it from"):
        perceptual.LPIPS(LPIPSOptions())


def test_dists_of_equal_images_is_zero_and_of_others_not(tmp_path):
    file = tmp_path / "vgg.pth"
    state = backbone(torchvision.models.vgg16, file)
    metric = perceptual.DISTS(DISTSOptions(weights=str(file)))
    images = networks.images(1, 2, 32)
    references = torch.cat([images[:1], near(images[1:])])
    metric.update(images, references)
    assert metric.last[0] == pytest.approx(0, abs=1e-5) and metric.last[1] > 1e-3
    assert torch.equal(metric.network.stage1[0].weight, state["features.0.weight"])
    # As written in the paper, with images from 0 to 1: structure and texture of each stage, weighted.
    network = metric.network
    x, y = (network.forward_once(each.float() / 255) for each in (images, references))
    total = network.alpha.sum() + network.beta.sum()
    found, start = torch.ones(2), 0
    for p, q in zip(x, y, strict=True):
        alpha, beta = (w[0, start : start + p.shape[1], 0, 0] / total for w in (network.alpha, network.beta))
        start += p.shape[1]
        mp, mq, vp, vq = p.mean((2, 3)), q.mean((2, 3)), p.var((2, 3), correction=0), q.var((2, 3), correction=0)
        cov = (p * q).mean((2, 3)) - mp * mq
        found -= (alpha * (2 * mp * mq + 1e-6) / (mp**2 + mq**2 + 1e-6)).sum(1)
        found -= (beta * (2 * cov + 1e-6) / (vp + vq + 1e-6)).sum(1)
    assert metric.last.tolist() == pytest.approx(found.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("make", "variable"),
    [
        (lambda: perceptual.LPIPS(LPIPSOptions(net="vgg")), "VGG16"),
        (lambda: perceptual.LPIPS(LPIPSOptions(net="squeeze")), "SQUEEZENET"),
        (lambda: perceptual.DISTS(DISTSOptions()), "VGG16"),
    ],
)
def test_missing_backbones_are_reported_and_never_fetched(monkeypatch, tmp_path, make, variable):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("it was fetched"))
    monkeypatch.delenv(f"POSTDIFF_{variable}", raising=False)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        with pytest.raises(UsageError, match=rf", and there is no file .*; get it from https.* POSTDIFF_{variable}"):
            make()
    finally:
        torch.hub.set_dir(before)
