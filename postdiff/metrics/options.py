"""Options of the metrics that have any: `metrics: [{kid: {subsets: 50}}]`. The dataclasses are the schema.

This module imports nothing heavy, so that options can be checked before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from postdiff.engine.errors import UsageError, unknown
from postdiff.engine.values import LARGEST, between

__all__ = [
    "MODES",
    "PLACES",
    "CMMDOptions",
    "ClipOptions",
    "DISTSOptions",
    "FIDOptions",
    "InceptionScoreOptions",
    "KIDOptions",
    "LPIPSOptions",
    "PrecisionRecallOptions",
]

# How pictures reach the network: clean-fid's three ways, or as a CLIP model's own processor has it.
MODES = ("clean", "legacy_pytorch", "legacy_tensorflow", "clip")
# Options that say where a file is. What is in it, not where it is, belongs to a run's identity.
PLACES = ("extractor", "reference", "model", "weights")


MOST_SIDE, MOST_IMAGES, MOST_PARTS = 16384, 10_000_000, 10_000


def _within(options: object, **bounds: tuple[int, int]) -> None:
    for name, (least, most) in bounds.items():
        if (value := getattr(options, name)) is not None:
            between(least, most, "", name, value)


def _one_of(options: object, name: str, choices: tuple[str, ...]) -> None:
    if getattr(options, name) not in choices:
        raise unknown(name, getattr(options, name), choices)


@dataclass
class FIDOptions:
    """A Frechet distance.

    Attributes:
        extractor: file of the network that gives the features; null means the one in the environment variable. A
            TorchScript file runs code of its own: name none that you do not trust.
        reference: name of the data, or statistics file, to compare with; null means the row's own data.
        crop: of the reference pictures, as `postdiff data statistics --crop` was given; null means none.
    """

    extractor: str | None = None
    reference: str | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        _within(self, crop=(1, MOST_SIDE))


@dataclass
class KIDOptions(FIDOptions):
    """The kernel distance; see `FIDOptions`.

    Attributes:
        mode: clean, legacy_pytorch or legacy_tensorflow.
        subsets: how many random subsets the value is the mean of.
        subset_size: pictures in each; fewer if there are fewer.
        seed: of the subsets.
    """

    mode: str = "clean"
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        _within(self, crop=(1, MOST_SIDE), subsets=(1, MOST_PARTS), subset_size=(2, MOST_IMAGES), seed=(0, LARGEST))
        _one_of(self, "mode", MODES[:3])


@dataclass
class PrecisionRecallOptions(FIDOptions):
    """Precision or recall; see `FIDOptions`.

    Attributes:
        mode: clean, legacy_pytorch or legacy_tensorflow.
        k: which neighbour's distance is the radius.
        cap: at most so many pictures of either side, drawn with `seed`; null means all.
        seed: of that draw.
    """

    mode: str = "clean"
    k: int = 3
    cap: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _within(self, crop=(1, MOST_SIDE), k=(1, MOST_PARTS), seed=(0, LARGEST))
        _within(self, cap=(self.k + 1, MOST_IMAGES))
        _one_of(self, "mode", MODES[:3])


@dataclass
class InceptionScoreOptions:
    """The Inception Score.

    Attributes:
        extractor: see `FIDOptions`; it must give class scores.
        splits: parts that the score is the mean of.
        seed: of the split.
    """

    extractor: str | None = None
    splits: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _within(self, splits=(1, MOST_PARTS), seed=(0, LARGEST))


@dataclass
class CMMDOptions:
    """CMMD.

    Attributes:
        model: CLIP folder or repository of the hub; null means the authors' ViT-L/14 at 336 pixels.
        reference: see `FIDOptions`.
        crop: see `FIDOptions`.
    """

    model: str | None = None
    reference: str | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        _within(self, crop=(1, MOST_SIDE))


@dataclass
class ClipOptions:
    """A CLIP score.

    Attributes:
        model: CLIP folder or repository of the hub, or `open_clip:NAME/TAG_OR_FILE`; null means OpenAI's ViT-L/14.
        template: the text for a prompt, which stands where {prompt} is.
    """

    model: str | None = None
    template: str = "{prompt}"

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise UsageError(f"template='{self.template}' has no {{prompt}}; write it where the prompt belongs")


@dataclass
class LPIPSOptions:
    """LPIPS.

    Attributes:
        net: alex, vgg or squeeze.
        weights: torchvision's weight file of that network.
    """

    net: str = "alex"
    weights: str | None = None

    def __post_init__(self) -> None:
        _one_of(self, "net", ("alex", "vgg", "squeeze"))


@dataclass
class DISTSOptions:
    """DISTS.

    Attributes:
        weights: torchvision's weight file of VGG16.
    """

    weights: str | None = None
