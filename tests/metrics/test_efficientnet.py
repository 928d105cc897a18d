"""EfficientNet-Lite0 as it ships: others' layout, numbers of theirs, and a photograph that it recognises."""

import os
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import pil_to_tensor

from postdiff import metrics
from postdiff.engine.errors import UsageError
from postdiff.metrics import efficientnet, features
from postdiff.metrics.base import Resources
from postdiff.metrics.fid import frechet_distance, root
from postdiff.metrics.kid import kernel_distance
from postdiff.metrics.reference import ReferenceStatistics
from postdiff.model_files import sha256
from postdiff.zoo import EFFICIENTNET, EMOJI
from tests.metrics import networks

PACKAGE = os.environ.get("POSTDIFF_EFFICIENTNET_PACKAGE")
EMOJI_FEATURES = EMOJI / "efficientnet_features.safetensors"
# ImageNet's numbers of its classes.
ESPRESSO, CATS = 967, (281, 282, 285)


@pytest.fixture(scope="module")
def extractor():
    return efficientnet.load()


def pattern():
    """An image of 256 pixels a side, which loses its rim and is not resized."""
    return torch.arange(3 * 256 * 256).remainder(251).to(torch.uint8).reshape(1, 3, 256, 256)


def photograph(name):
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None]


def in_order_of(network, extractor):
    """Another network of the same layout with the shipped values, whatever it calls them."""
    values = {name: value for name, value in extractor.network.state_dict().items() if "num_batches" not in name}
    names = [name for name in network.state_dict() if "num_batches" not in name]
    network.load_state_dict(dict(zip(names, values.values(), strict=True)), strict=False)
    return network.eval()


@torch.no_grad()
def test_the_scores_are_those_of_timms_network(extractor):
    timm = pytest.importorskip("timm")
    theirs = in_order_of(timm.create_model("tf_efficientnet_lite0", pretrained=False), extractor)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extractor.network(pixels), theirs(pixels))


@pytest.mark.skipif(not PACKAGE, reason="set POSTDIFF_EFFICIENTNET_PACKAGE to the unpacked efficientnet-lite-pytorch")
@torch.no_grad()
def test_the_scores_are_those_of_the_packages_network(extractor, monkeypatch):
    monkeypatch.setattr(sys, "path", [PACKAGE, *sys.path])
    from efficientnet_lite_pytorch import EfficientNet

    theirs = in_order_of(EfficientNet.from_name("efficientnet-lite0"), extractor)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extractor.network(pixels), theirs(pixels))


@torch.no_grad()
def test_the_scores_of_a_pattern_are_those_that_the_package_gave(extractor):
    scores = extractor.network(efficientnet.prepared(pattern()))[0]
    best, classes = scores.topk(5)
    assert classes.tolist() == [905, 600, 462, 767, 418]
    assert best.tolist() == pytest.approx([7.5411, 4.8090, 4.1409, 4.0487, 4.0138], abs=2e-3)
    found = extractor(pattern())
    assert found.shape == (1, 1280) and found.dtype == torch.float32
    assert [float(found.sum()), float(found.std())] == pytest.approx([171.358, 0.42326], rel=1e-4)


@torch.no_grad()
def test_it_names_what_is_on_a_photograph(extractor):
    # Both are CC0 and come with scikit-image: a cup of espresso by Rachel Michetti, a cat by Stefan van der Walt.
    shares = extractor.network(efficientnet.prepared(photograph("coffee"))).softmax(1)[0]
    assert shares.argmax() == ESPRESSO and shares[ESPRESSO] > 0.9
    shares = extractor.network(efficientnet.prepared(photograph("chelsea"))).softmax(1)[0]
    assert shares.argmax() in CATS and sum(shares[cat] for cat in CATS) > 0.85


def test_an_image_is_cut_and_scaled_as_its_authors_do():
    image = pattern()
    assert torch.equal(efficientnet.prepared(image), (image[..., 16:240, 16:240].float() - 127) / 128)
    wide = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    wide[..., 4:60, 20:76] = 255  # 56 = 64 * 224 / 256
    assert (efficientnet.prepared(wide) - 1).abs().max() < 1e-5
    assert efficientnet.prepared(torch.full((1, 3, 1, 1), 127, dtype=torch.uint8)).shape == (1, 3, 224, 224)


def test_the_identity_names_the_network_and_the_file(extractor):
    shipped = sha256(EFFICIENTNET)
    assert shipped in (EFFICIENTNET.parent / "NOTICE").read_text()
    found = extractor.identity()
    assert (found["model"], found["checkpoint"]) == ("EfficientNet-Lite0", shipped[:16])
    for name in ("frechet_efficientnet", "kernel_efficientnet"):
        assert "FID" not in metrics.facts(name).title and "KID" not in metrics.facts(name).title
        resources = Resources("emoji", EMOJI, features=EMOJI_FEATURES)
        assert metrics.load(name).rests_on(metrics.load(name).Options(), resources)[0] == shipped[:16]


def test_a_file_named_for_it_is_refused():
    for read in (features.extractor, features.extractor_hash):
        with pytest.raises(UsageError, match=r"has a network that ships, and mine\.pt is named for it"):
            read("efficientnet", "mine.pt")


def measured(name, images, resources):
    cls = metrics.load(name)
    metric = cls.from_options(cls.Options(), resources)
    metric.update(images)
    return float(metric.compute()), metric.identity()


def test_distances_are_those_of_its_features(extractor, tmp_path):
    images, real = networks.images(1, 6, 32), networks.images(2, 6, 32)
    file = tmp_path / "real.safetensors"
    ReferenceStatistics.of(extractor(real), {"images": "abc", **extractor.identity()}).save(file)
    resources = Resources("mine", tmp_path, features=file)
    x, y = (extractor(each).double() for each in (images, real))
    expected = frechet_distance(x.mean(0), torch.cov(x.T), y.mean(0), root(torch.cov(y.T)))
    found, identity = measured("frechet_efficientnet", images, resources)
    assert found == pytest.approx(float(expected), rel=1e-3) and found > 1
    assert identity["model"] == "EfficientNet-Lite0" and identity["statistics"]["images"] == "abc"
    found, _ = measured("kernel_efficientnet", images, resources)
    assert found == pytest.approx(float(kernel_distance(y, x)), rel=1e-4)


def test_the_shipped_features_are_of_the_real_emoji(extractor):
    real = ReferenceStatistics.load(EMOJI_FEATURES)
    assert (real.count, real.identity["checkpoint"]) == (450, extractor.checkpoint)
    sheet = pil_to_tensor(Image.open(Path(__file__).parents[1] / "zoo" / "real_emoji.png").convert("RGB"))
    images = torch.stack(sheet.split(64, dim=2))
    nearest = torch.cdist(extractor(images), real.features).min(1)
    assert len(nearest.indices.unique()) == len(images) and nearest.values.max() < 0.05
    # Its own images are nearer to them than noise is.
    resources = Resources("emoji", EMOJI, features=EMOJI_FEATURES)
    noise = networks.images(1, 16, 64)
    for name in ("frechet_efficientnet", "kernel_efficientnet"):
        assert measured(name, images, resources)[0] < 0.7 * measured(name, noise, resources)[0]


@pytest.mark.parametrize("broken", [torch.ones(1, 1280), torch.ones(5), torch.full((3, 4), float("nan"))])
def test_a_file_that_holds_no_features_is_refused(tmp_path, broken):
    file = tmp_path / "real.safetensors"
    save_file({"features": broken}, file, {"identity": "{}"})
    with pytest.raises(UsageError, match=r"real\.safetensors holds no features of two images or more; make it again"):
        ReferenceStatistics.load(file)
