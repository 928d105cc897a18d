"""Features of images, and the base of metrics of a whole set: features taken in batch by batch, and their spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from postdiff.engine.errors import UsageError
from postdiff.metrics import reference
from postdiff.metrics.base import BaseMetric, Resources, check_ranges
from postdiff.metrics.checkpoints import CMMD
from postdiff.metrics.reference import ReferenceStatistics

__all__ = [
    *("INCEPTION_MODES", "MODES", "Compared", "Extractor", "FeatureMetric", "ReferenceOptions", "extractor"),
    *("extractor_hash", "in_order"),
]

# How images reach the network: clean-fid's three ways, as a CLIP model's own processor has it, or as EfficientNet's.
INCEPTION_MODES = ("clean", "legacy_pytorch", "legacy_tensorflow")
MODES = (*INCEPTION_MODES, "clip", "efficientnet")
MOST_SIDE, MOST_IMAGES, MOST_PARTS = 16384, 10_000_000, 10_000


@dataclass
class Compared:
    """Options of a metric that compares with features of reference images, by a network that ships.

    Attributes:
        reference: name of the data, or statistics file, to compare with; null means the row's own data.
        crop: of the reference images, as `postdiff data statistics --crop` was given; null means none.
    """

    reference: str | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, crop=(1, MOST_SIDE))


@dataclass
class ReferenceOptions(Compared):
    """The same by a network that does not ship.

    Attributes:
        extractor: file of the network that gives the features; null means the one in the environment variable. A
            TorchScript file runs code of its own: name none that you do not trust.
    """

    extractor: str | None = None


class Extractor(nn.Module):
    """A network that gives features. Several metrics ask for those of one batch, so the last batch is remembered.

    Attributes:
        mode: one of `MODES`; None if it has a way of its own.
        checkpoint: which weights: 16 hexadecimal digits, or "repository@commit".
        num_features: length of a feature vector.
    """

    mode: str | None
    checkpoint: str
    num_features: int

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, d), float32, of images (B, 3, H, W), uint8."""
        assert images.dtype == torch.uint8, f"images must be uint8, not {images.dtype}"
        if self._last is None or self._last[0] is not images:
            self._last = (images, self.features(images))
        return self._last[1]

    def features(self, images: Tensor) -> Tensor:
        """As `forward`, computed anew."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Model, checkpoint, resizing and dtype."""
        raise NotImplementedError


def extractor(mode: str, place: str | None) -> Extractor:
    """The network that gives features in a mode, from where an option or an environment variable says.

    Raises:
        UsageError: its files are missing or of another kind, or a file is named for the one that ships.
    """
    from postdiff.metrics import clip, efficientnet, extractors

    if mode == "efficientnet":
        _refuse_a_file(place)
        return efficientnet.load()
    return clip.load(place, CMMD) if mode == "clip" else extractors.load(mode, place)


def extractor_hash(mode: str, place: str | None) -> str | None:
    """Which weights `extractor` would read; None if there are none.

    Raises:
        UsageError: a file is named for the network that ships.
    """
    from postdiff.metrics import clip, efficientnet, extractors

    if mode == "efficientnet":
        _refuse_a_file(place)
        return efficientnet.weights_hash()
    return clip.weights_hash(place, CMMD) if mode == "clip" else extractors.weights_hash(mode, place)


def _refuse_a_file(place: str | None) -> None:
    if place is not None:
        raise UsageError(f"mode efficientnet has a network that ships, and {place} is named for it; name no extractor")


def in_order(features: Tensor) -> Tensor:
    """The rows of (N, d) in an order of their own, so that a seeded draw does not depend on which came first."""
    keys = features[:, : min(3, features.shape[1])].cpu().numpy()
    return features[torch.from_numpy(np.lexsort(keys.T[::-1])).to(features.device)]


class FeatureMetric(BaseMetric):
    """A value of the features of all images; those are held, in float32, and joined over devices.

    Args:
        extractor: gives the features.
        real: those of reference images, or None if the metric has no use for them.
        options: an instance of `Options`; None means its defaults.

    Attributes:
        draws: after `compute`, the value of each of `resamples` resamples with replacement.
        measured: images in the last `compute`, those of all devices.
        holds: whether features are held also if nothing is resampled.
        compares: whether it has a use for reference images.
        mode: of its network; None if an option says it.
    """

    holds: bool = True
    compares: bool = True
    mode: str | None = None
    features: Any
    real: Any
    seen: Tensor

    def __init__(self, extractor: Extractor, real: ReferenceStatistics | None = None, options: Any = None) -> None:
        super().__init__()
        self.extractor, self.real = extractor, real
        self.options = self.Options() if options is None and self.Options is not None else options
        self.draws: list[float] = []
        self.measured = 0
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("features", [], dist_reduce_fx="cat")

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        mode, place = cls._network(options)
        network, real = extractor(mode, place), None
        if cls.compares:
            name = cls._reference(options, resources)
            real = reference.find(name, resources.statistics_folder, network, place, options.crop)
        return cls(network, real, options)

    @classmethod
    def rests_on(cls, options: Any, resources: Resources) -> list[str | None]:
        mode, place = cls._network(options)
        weights = extractor_hash(mode, place)
        if not cls.compares:
            return [weights]
        name, folder = cls._reference(options, resources), resources.statistics_folder
        file = None if weights is None else reference.present(name, folder, mode, weights, options.crop)
        return [weights, None if file is None else reference.content_hash(file)]

    @classmethod
    def _network(cls, options: Any) -> tuple[str, str | None]:
        """Mode and place of its network."""
        return cls.mode or options.mode, getattr(options, "extractor", None)

    @classmethod
    def _reference(cls, options: Any, resources: Resources) -> str:
        """Name of the data to compare with, or the file: what an option says, else what comes with the row's data."""
        file = resources.features
        if options.reference or file is None or options.crop is not None:
            return options.reference or resources.data
        fits = reference.ReferenceStatistics.read_identity(file).get("mode") == cls._network(options)[0]
        return str(file) if fits else resources.data

    def update(self, images: Tensor) -> None:
        """Take in images (B, 3, H, W), uint8."""
        self.take(self.extractor(images))

    def take(self, features: Tensor) -> None:
        """Take in features (B, d)."""
        self.seen += len(features)
        if self.holds or self.resamples:
            self.features.append(features.detach())

    def compute(self) -> Tensor:
        """The value, a float64 scalar; NaN for fewer than two images."""
        self.measured, self.draws = int(self.seen), []
        if self.measured < 2:
            return torch.tensor(float("nan"), dtype=torch.float64)
        if not (self.holds or self.resamples):
            return self.value(torch.empty(0))
        held = in_order(torch.cat(self.features) if isinstance(self.features, list) else self.features)
        value, generator = self.value(held), np.random.default_rng(0)
        self.draws = [float(self.resampled(held, generator)) for _ in range(self.resamples)]
        return value

    def value(self, features: Tensor) -> Tensor:
        """The value of features (N, d); a metric that does not hold them has sums of its own."""
        raise NotImplementedError

    def resampled(self, features: Tensor, generator: np.random.Generator) -> Tensor:
        """The value of as many images drawn with replacement."""
        chosen = generator.integers(len(features), size=len(features))
        return self.value(features[torch.from_numpy(chosen).to(features.device)])

    def identity(self) -> dict[str, Any]:
        """Extractor, reference images and, where it matters, a warning about too few images."""
        found: dict[str, Any] = dict(self.extractor.identity())
        if self.real is not None:
            found["statistics"] = {name: self.real.identity.get(name) for name in ("data", "images", "count", "crop")}
        return found
