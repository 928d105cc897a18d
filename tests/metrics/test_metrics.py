"""Each metric against a formula written out here; the same input is zero; batches do not matter."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import linalg
from scipy.ndimage import correlate1d
from transformers import AutoTokenizer

from postdiff import metrics
from postdiff.engine.errors import UsageError
from postdiff.metrics import clip
from postdiff.metrics.base import Resources
from postdiff.metrics.clip_score import EmojiTextScore
from postdiff.metrics.fid import EmojiFrechetDistance
from postdiff.metrics.paired import PSNR_CAP, PairedFeatureDistance, PairedPSNR, PairedSSIM, psnr
from postdiff.metrics.reference import ReferenceStatistics
from tests.lab import tiny_folder

N = 12
# The others need weights that do not ship; their own files test them. Those of one's own are held to the same.
GENERIC = [name for name in metrics.names() if name not in metrics.SHIPPED or metrics.facts(name).by_default]
GENERIC += ["paired_lpips"]  # its weights ship, though rows that name no metrics are not measured with it


def images(seed, n=N, size=32):
    return torch.randint(256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def near(images, seed=5, by=9):
    noise = torch.randint(-by, by + 1, images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.int() + noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "dual_encoder"
    tiny_folder.save_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return clip.dual_encoder(encoder_folder)


def statistics(encoder, images):
    return ReferenceStatistics.of(encoder(images), {})


@pytest.fixture(scope="module")
def resources(encoder, encoder_folder):
    """A row with a dual encoder and statistics of reference images."""
    real, file = statistics(encoder, images(9, 40)), encoder_folder.parent / "statistics.safetensors"
    save_file({"mean": real.mean, "covariance": real.covariance, "count": torch.tensor(real.count)}, file)
    return Resources("none", encoder_folder.parent, encoder_folder, file)


def given(n=N):
    batch = images(0, n)
    return {"images": batch, "references": near(batch), "prompts": [f"a number {i}" for i in range(n)]}


def value(metric, batches):
    keywords = inspect.signature(type(metric).update).parameters.keys() & batches[0].keys()
    for batch in batches:
        metric.update(**{keyword: batch[keyword] for keyword in keywords})
    return float(metric.compute())


def built(name, resources):
    cls = metrics.load(name)
    return cls.from_options(None if cls.Options is None else cls.Options(), resources)


@pytest.mark.parametrize("name", metrics.names())
def test_what_tables_print_is_what_the_class_says(name):
    cls, facts = metrics.load(name), metrics.facts(name)
    said = {each: getattr(cls, each) for each in metrics.MetricFacts.__dataclass_fields__ if each != "summary"}
    assert facts == metrics.MetricFacts(**said, summary=cls.__doc__.strip().splitlines()[0])
    assert facts.title and facts.summary and cls.least >= 1
    assert set(facts.needs) <= {"references", "encoder", "statistics"}
    assert ("references" in facts.needs) == ("references" in inspect.signature(cls.update).parameters)
    assert cls.Options is None or cls.Options(), "every option has a default"


def test_an_unknown_metric():
    with pytest.raises(UsageError, match="did you mean 'paired_ssim'"):
        metrics.facts("paired_sim")
    with pytest.raises(UsageError, match="unknown metric 'base'"):
        metrics.load("base")


@pytest.mark.parametrize("name", GENERIC)
def test_batches_do_not_matter(resources, name):
    whole = given()
    parts = [{key: item[start : start + 5] for key, item in whole.items()} for start in range(0, N, 5)]
    one, other = built(name, resources), built(name, resources)
    assert value(one, [whole]) == pytest.approx(value(other, parts), rel=1e-4)
    assert isinstance(one.identity(), dict)


@pytest.mark.parametrize("name", GENERIC)
def test_reset_forgets_the_images_and_only_them(resources, name):
    metric = built(name, resources)
    first = value(metric, [given()])
    metric.reset()
    assert value(metric, [given()]) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("name", GENERIC)
def test_parts_joined_as_devices_join_them_are_the_whole(resources, name):
    whole, joined, half = (built(name, resources) for _ in range(3))
    batch = given()
    value(joined, [{key: item[:5] for key, item in batch.items()}])
    value(half, [{key: item[5:] for key, item in batch.items()}])
    joined.merge_state(half)
    joined._computed = None
    assert float(joined.compute()) == pytest.approx(value(whole, [batch]), rel=1e-6)


def test_psnr_is_the_mean_of_each_images_psnr():
    batch = given()
    expected = []
    for image, reference in zip(batch["images"].numpy(), batch["references"].numpy(), strict=True):
        error = np.mean((image.astype(float) - reference.astype(float)) ** 2)
        expected.append(20 * math.log10(255 / math.sqrt(error)))
    metric = PairedPSNR()
    assert value(metric, [batch]) == pytest.approx(np.mean(expected))
    assert metric.last.tolist() == pytest.approx(expected)


def test_equal_images_have_the_capped_psnr_and_do_not_spoil_a_mean():
    batch = images(0, 2)
    assert psnr(batch, batch).tolist() == [PSNR_CAP, PSNR_CAP]
    mixed = torch.stack([batch[0], near(batch)[1]])
    assert torch.isfinite(psnr(mixed, batch)).all() and psnr(mixed, batch)[0] == PSNR_CAP


def ssim_by_hand(image, reference):
    """Wang et al. 2004 on one picture (3, H, W) in [0, 1]; borders mirrored."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(channel):
        return correlate1d(correlate1d(channel, window, axis=0, mode="mirror"), window, axis=1, mode="mirror")

    found = []
    for x, y in zip(image, reference, strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        found.append(((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(found)


def test_ssim_equals_the_written_out_formula():
    batch = given(4)
    images, references = batch["images"].double().numpy() / 255, batch["references"].double().numpy() / 255
    metric = PairedSSIM()
    metric.update(batch["images"], batch["references"])
    expected = [ssim_by_hand(x, y) for x, y in zip(images, references, strict=True)]
    assert metric.last.tolist() == pytest.approx(expected, abs=2e-4)


def test_equal_images_are_at_distance_zero(encoder):
    batch = images(0)
    ssim, feature = PairedSSIM(), PairedFeatureDistance(encoder)
    assert value(ssim, [{"images": batch, "references": batch}]) == pytest.approx(1)
    assert value(feature, [{"images": batch, "references": batch}]) == 0
    same = EmojiFrechetDistance(encoder, statistics(encoder, batch))
    assert value(same, [{"images": batch}]) == pytest.approx(0, abs=1e-3)


def test_feature_distance_is_one_minus_cosine(encoder):
    batch = given()
    x, y = (
        encoder.network.get_image_features(pixel_values=batch[key].float() / 127.5 - 1)
        for key in ("images", "references")
    )
    x, y = (features.pooler_output.double() for features in (x, y))
    expected = 1 - (x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1)
    metric = PairedFeatureDistance(encoder)
    metric.update(batch["images"], batch["references"])
    assert metric.last.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-8)


def test_frechet_distance_equals_the_written_out_formula(encoder):
    real, fake = images(1, 60), near(images(2, 50), by=60)
    metric = EmojiFrechetDistance(encoder, statistics(encoder, real))
    found = value(metric, [{"images": fake}])
    a, b = (encoder(batch).double().numpy() for batch in (real, fake))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.trace(linalg.sqrtm(ca @ cb).real)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca) + np.trace(cb) - 2 * cross
    assert found == pytest.approx(expected, rel=1e-4)
    assert metric.identity()["reference_images"] == 60


def test_frechet_distance_of_one_image_is_none(encoder):
    metric = EmojiFrechetDistance(encoder, statistics(encoder, images(1)))
    metric.update(images(0, 1))
    assert math.isnan(float(metric.compute()))


def test_statistics_of_another_encoder_are_refused(encoder):
    good = statistics(encoder, images(1))
    with pytest.raises(UsageError, match="another encoder"):
        EmojiFrechetDistance(encoder, dataclasses.replace(good, encoder="0" * 64))
    with pytest.raises(UsageError, match="another encoder"):
        EmojiFrechetDistance(encoder, ReferenceStatistics(torch.zeros(3), torch.eye(3), 9, {}))


def test_text_score_is_a_hundred_cosines(encoder, encoder_folder):
    batch = given()
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    tokens = tokenizer(batch["prompts"], padding="max_length", max_length=16, return_tensors="pt")
    text = encoder.network.get_text_features(**tokens).pooler_output
    image = encoder.network.get_image_features(pixel_values=batch["images"].float() / 127.5 - 1).pooler_output
    expected = 100 * torch.nn.functional.cosine_similarity(image, text)
    metric = EmojiTextScore(encoder)
    metric.update(batch["images"], batch["prompts"])
    assert metric.last.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_features_have_one_length_and_take_any_size(encoder):
    for size in (16, 32, 80):
        features = encoder(images(0, 3, size))
        assert features.shape == (3, encoder.num_features)
        assert features.norm(dim=1).tolist() == pytest.approx([10.0] * 3, rel=1e-5)


def test_a_batch_is_encoded_once_for_several_metrics(encoder, monkeypatch):
    calls = []
    monkeypatch.setattr(encoder, "features", lambda batch: calls.append(batch) or torch.ones(len(batch), 8))
    batch, references = images(0, 2), images(1, 2)
    PairedFeatureDistance(encoder).update(batch, references)
    EmojiTextScore(encoder).update(batch, ["a", "b"])
    assert len(calls) == 2, "one call for the references and one for the images"


def test_an_encoder_folder_that_lacks_a_file(tmp_path):
    with pytest.raises(UsageError, match=r"no model\.safetensors"):
        clip.dual_encoder(tmp_path)
