"""Metrics of whole sets of images against clean-fid's own code, closed forms, and formulas written out here."""

import math

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from cleanfid.inception_pytorch import FID_WEIGHTS_URL, fid_inception_v3

from postdiff.engine.errors import UsageError
from postdiff.metrics import extractors
from postdiff.metrics.cmmd import CMMD, gaussian_mmd
from postdiff.metrics.features import Extractor, in_order
from postdiff.metrics.fid import FID, frechet_distance, root
from postdiff.metrics.inception_score import InceptionScore, InceptionScoreOptions, inception_score
from postdiff.metrics.kid import KID, KIDOptions, subsets
from postdiff.metrics.precision_recall import Precision, PrecisionRecallOptions, Recall
from postdiff.metrics.reference import ReferenceStatistics
from tests.metrics import networks

MODES = ("clean", "legacy_pytorch", "legacy_tensorflow")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return networks.save(networks.Small, tmp_path_factory.mktemp("networks") / "small.pt")


@pytest.fixture(scope="module")
def like_inception(tmp_path_factory):
    return networks.save(networks.LikeInception, tmp_path_factory.mktemp("networks") / "inception-2015-12-05.pt")


class Given(Extractor):
    """Takes features for images, so that formulas can be tested without any."""

    mode, checkpoint = "clean", "given"

    def __init__(self, length):
        super().__init__()
        self.num_features = length

    def forward(self, features):
        return features

    def identity(self):
        return {"model": "given", "checkpoint": self.checkpoint}


def random_features(seed, count, length=4):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed


def measured(metric, features, batch=7):
    for part in features.split(batch):
        metric.update(part)
    return float(metric.compute())


@pytest.mark.parametrize("mode", MODES)
def test_fid_of_two_folders_is_that_of_clean_fid(mode, small, tmp_path):
    images, real = networks.images(1, 30), networks.images(2, 26)
    folders = [networks.save_images(tmp_path / str(i), each) for i, each in enumerate((images, real))]
    script = torch.jit.load(str(small))
    expected = clean_fid.compute_fid(
        *map(str, folders),
        mode=mode,
        custom_feat_extractor=script,
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    network = extractors.load(mode, str(small))
    metric = FID(network, ReferenceStatistics.of(network(real), {"count": len(real)}))
    for part in images.split(8):
        metric.update(part)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1, "the two sets must differ for this to say anything"


def test_modes_differ(small):
    image = networks.images(0, 2)
    found = [extractors.load(mode, str(small))(image) for mode in MODES]
    assert not torch.allclose(found[0], found[1], rtol=1e-3) and not torch.allclose(found[1], found[2], rtol=1e-3)


def test_the_real_inceptions_interface_is_clean_fids(like_inception):
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    images = networks.images(0, 3)
    for mode in ("clean", "legacy_tensorflow"):
        theirs = InceptionV3W(str(like_inception.parent), download=False, resize_inside=mode == "legacy_tensorflow")
        resize = build_resizer(mode)
        arrays = [np.float32(resize(image)).transpose(2, 0, 1) for image in images.permute(0, 2, 3, 1).numpy()]
        with torch.no_grad():
            expected = theirs(torch.from_numpy(np.stack(arrays)))
        found = extractors.load(mode, str(like_inception.parent))(images)
        assert found.shape == (3, 2048) and torch.allclose(found, expected, atol=1e-6)


def test_legacy_pytorch_takes_the_weights_of_pytorch_fid(tmp_path, like_inception):
    from cleanfid.inception_pytorch import InceptionV3

    with pytest.raises(UsageError, match="needs pytorch-fid's own weights"):
        extractors.load("legacy_pytorch", str(like_inception))
    file = tmp_path / FID_WEIGHTS_URL.rpartition("/")[2]
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(UsageError, match="holds something else"):
        extractors.load("legacy_pytorch", str(tmp_path / "empty"))
    before = torch.hub.get_dir()
    import cleanfid.inception_pytorch as module

    # Its own builder without its download, to have a file of the right shape.
    torch.manual_seed(0)
    plain = module._inception_v3(num_classes=1008, aux_logits=False, pretrained=False)
    plain.Mixed_5b = module.FIDInceptionA(192, pool_features=32)
    plain.Mixed_5c = module.FIDInceptionA(256, pool_features=64)
    plain.Mixed_5d = module.FIDInceptionA(288, pool_features=64)
    for number in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        setattr(plain, f"Mixed_6{number[0]}", module.FIDInceptionC(768, channels_7x7=number[1]))
    plain.Mixed_7b, plain.Mixed_7c = module.FIDInceptionE_1(1280), module.FIDInceptionE_2(2048)
    torch.save(plain.state_dict(), file)
    network = extractors.load("legacy_pytorch", str(file))
    assert torch.hub.get_dir() == before
    with extractors.PYTORCH.in_place(file):
        theirs = InceptionV3(output_blocks=[3], resize_input=False).eval()
    assert fid_inception_v3 is not None and network.num_features == 2048
    images = networks.images(0, 1)
    resized = torch.nn.functional.interpolate(images.float(), (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = theirs(resized.clamp(0, 255) / 255)[0].flatten(1)
    assert torch.allclose(network(images), expected, rtol=1e-3, atol=1e-5)


def test_frechet_distance_of_gaussians_in_closed_form():
    def distance(mean, spread, other, other_spread):
        to = [torch.tensor(values, dtype=torch.float64) for values in (mean, spread, other, other_spread)]
        return float(frechet_distance(to[0], torch.diag(to[1] ** 2), to[2], root(torch.diag(to[3] ** 2))))

    # For commuting covariances it is |m1 - m2|^2 + |s1 - s2|^2.
    assert distance([0, 0], [1, 2], [3, 4], [1, 2]) == pytest.approx(25)
    assert distance([0, 0], [1, 2], [0, 0], [4, 6]) == pytest.approx(9 + 16)
    assert distance([1, 0], [0, 2], [0, 0], [0, 5]) == pytest.approx(1 + 9), "singular ones too"


def test_fid_of_sums_equals_numpy_and_scipy():
    a, b = (
        random_features(1, 50),
        random_features(2, 60) @ torch.randn(4, 4, generator=torch.Generator().manual_seed(5)),
    )
    expected = clean_fid.frechet_distance(
        a.numpy().mean(0), np.cov(a.numpy(), rowvar=False), b.numpy().mean(0), np.cov(b.numpy(), rowvar=False)
    )
    assert measured(FID(Given(4), ReferenceStatistics.of(b, {})), a) == pytest.approx(expected, rel=1e-5)


def test_sums_are_exact_far_from_zero():
    a = random_features(1, 40) * 1e-3 + 1e3
    same = FID(Given(4), ReferenceStatistics.of(a, {}))
    assert measured(same, a) == pytest.approx(0, abs=1e-9)


def test_kid_equals_clean_fids_formula_on_the_same_subsets(monkeypatch):
    real, generated = random_features(1, 40), random_features(2, 30)
    options = KIDOptions(subsets=6, subset_size=10, seed=3)
    metric = KID(Given(4), ReferenceStatistics.of(real, {}), options)
    found = measured(metric, generated)
    chosen = iter([place for pair in subsets(40, 30, options) for place in pair[::-1]])
    # clean-fid draws of its second argument first, from the global generator.
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(chosen))
    expected = clean_fid.kernel_distance(
        in_order(real).double().numpy(), in_order(generated).double().numpy(), num_subsets=6, max_subset_size=10
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_kid_of_whole_samples_is_the_unbiased_mmd_written_out():
    x, y = random_features(0, 12).double(), random_features(1, 12).double()

    def kernel(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    own = sum(kernel(a, b) for each in (x, y) for i, a in enumerate(each) for j, b in enumerate(each) if i != j)
    mixed = sum(kernel(a, b) for a in x for b in y)
    found = measured(KID(Given(4), ReferenceStatistics.of(x, {}), KIDOptions()), y)
    assert found == pytest.approx(own / (12 * 11) - 2 * mixed / 144, rel=1e-6)


def manifold(points, others, k):
    """Kynkaanniemi et al., Sec. 3, image by image: the share of `points` in the manifold of `others`."""
    hits = 0
    reach = [sorted(math.dist(a, b) for b in others)[k] for a in others]
    for point in points:
        hits += any(math.dist(point, other) <= radius for other, radius in zip(others, reach, strict=True))
    return hits / len(points)


def test_precision_and_recall_equal_the_definition():
    real, generated = random_features(0, 40, 2) * 2, random_features(1, 35, 2)
    options = PrecisionRecallOptions()
    precision = measured(Precision(Given(2), ReferenceStatistics.of(real, {}), options), generated)
    recall = measured(Recall(Given(2), ReferenceStatistics.of(real, {}), options), generated)
    assert precision == pytest.approx(manifold(generated.tolist(), real.tolist(), 3))
    assert recall == pytest.approx(manifold(real.tolist(), generated.tolist(), 3))
    assert 0 < precision < 1 and 0 < recall < 1
    few = Precision(Given(2), ReferenceStatistics.of(real, {}), options)
    assert math.isnan(measured(few, generated[:3])), "a third neighbour needs four images"
    capped = Precision(Given(2), ReferenceStatistics.of(real, {}), PrecisionRecallOptions(cap=10))
    assert measured(capped, generated) in [share / 10 for share in range(11)]


def test_inception_score_equals_the_definition(small):
    network = extractors.load("legacy_tensorflow", str(small))
    images = networks.images(1, 12)
    script = torch.jit.load(str(small))
    with torch.no_grad():
        expected = script.logits(images.float()).double().softmax(1).numpy()
    options = InceptionScoreOptions(splits=1)
    metric = InceptionScore(network, options=options)
    metric.update(images[:5])
    metric.update(images[5:])
    divergence = (expected * np.log(expected / expected.mean(0))).sum(1).mean()
    assert float(metric.compute()) == pytest.approx(math.exp(divergence), rel=1e-5)
    assert float(metric.compute()) > 1
    assert float(inception_score(torch.eye(4))) == pytest.approx(4), "each image sure of another class"
    assert float(inception_score(torch.full((4, 4), 0.25))) == pytest.approx(1)
    assert metric.identity()["note"].startswith("fewer than 1000")


def test_inception_gives_its_classes_without_the_bias(like_inception):
    network = extractors.load("legacy_tensorflow", str(like_inception))
    images = networks.images(0, 2)
    script = torch.jit.load(str(like_inception))
    with torch.no_grad():
        plain = script(images.float())
        without = script(images.float(), no_output_bias=True)
    found = network.probabilities(images)
    assert torch.allclose(found, without) and not torch.allclose(found, plain)


def test_an_extractor_without_classes_has_no_inception_score(tmp_path):
    class Bare(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=[2, 3])

    file = networks.save(Bare, tmp_path / "bare.pt")
    with pytest.raises(UsageError, match="gives no class scores"):
        InceptionScore(extractors.load("legacy_tensorflow", str(file))).update(networks.images(0, 2))


def test_cmmd_equals_the_double_sum():
    x, y = (torch.nn.functional.normalize(random_features(seed, 9)) for seed in (0, 1))

    def kernel(a, b):
        return math.exp(-float((a - b).square().sum()) / 200)

    def mean(a, b):
        return np.mean([kernel(p, q) for p in a.double() for q in b.double()])

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert measured(CMMD(Given(4), ReferenceStatistics.of(x, {})), y) == pytest.approx(expected, rel=1e-6)
    assert float(gaussian_mmd(x, x)) == pytest.approx(0, abs=1e-9)


MAKERS = {
    "fid": lambda real: FID(Given(4), real),
    "kid": lambda real: KID(Given(4), real, KIDOptions(subset_size=8, subsets=5)),
    "precision": lambda real: Precision(Given(4), real, PrecisionRecallOptions(cap=16)),
    "recall": lambda real: Recall(Given(4), real),
    "cmmd": lambda real: CMMD(Given(4), real),
}


@pytest.mark.parametrize("name", MAKERS)
def test_neither_order_nor_batches_matter(name):
    real, features = ReferenceStatistics.of(random_features(0, 30), {}), random_features(1, 24)
    one, other = (MAKERS[name](real) for _ in range(2))
    one.resamples = other.resamples = 4
    assert measured(one, features) == pytest.approx(measured(other, features.flip(0), batch=5), rel=1e-9)
    assert one.draws == pytest.approx(other.draws, rel=1e-9) and len(one.draws) == 4


@pytest.mark.parametrize("name", MAKERS)
def test_halves_joined_as_devices_join_them_are_the_whole(name):
    real, features = ReferenceStatistics.of(random_features(0, 30), {}), random_features(1, 24)
    whole, joined = MAKERS[name](real), MAKERS[name](real)
    halves = [MAKERS[name](real) for _ in range(2)]
    for half, part in zip(halves, features.split(11), strict=False):
        half.update(part)
    joined.update(features[22:])
    for half in halves:
        joined.merge_state(half)
    assert float(joined.compute()) == pytest.approx(measured(whole, features), rel=1e-9)


def test_missing_inception_is_one_line_with_address_and_variable(monkeypatch):
    monkeypatch.delenv("POSTDIFF_INCEPTION", raising=False)
    monkeypatch.setenv("POSTDIFF_INCEPTION_PYTORCH", "/no/such/file")
    with pytest.raises(UsageError, match=r"no file is named; get it from https://.*\.pt and set POSTDIFF_INCEPTION "):
        extractors.load("clean")
    with pytest.raises(UsageError, match=r"there is no file /no/such/file; get it from https://.*\.pth"):
        extractors.load("legacy_pytorch")


def test_too_few_images_are_marked(small):
    network = extractors.load("clean", str(small))
    real = ReferenceStatistics.of(network(networks.images(2, 4)), {})
    metric = FID(network, real)
    metric.update(networks.images(1, 5))
    metric.compute()
    identity = metric.identity()
    assert identity["note"].startswith("5 generated images and 4 real images for 6 feature dimensions")
    assert {"model", "checkpoint", "mode", "resize", "dtype", "statistics"} <= set(identity)
    one = FID(network, real)
    one.update(networks.images(1, 1))
    assert math.isnan(float(one.compute()))
