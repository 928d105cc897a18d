"""EfficientNet-Lite0, a classifier of ImageNet whose weights ship: 1280 features of an image, scores of 1000 classes.

It has never seen the images of a model that ships here, and needs no file and no network.

Reference:
    Tan and Le, ICML 2019, arXiv:1905.11946; the Lite variants are their authors', published in 2020.
"""

from __future__ import annotations

import functools
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from postdiff import model_files
from postdiff.metrics.features import Extractor
from postdiff.zoo import EFFICIENTNET

__all__ = ["EfficientNetExtractor", "EfficientNetLite0", "load", "prepared", "weights_hash"]

SIDE, RIM = 224, 32  # pixels that the network sees, and those that its authors cut off a side of 256
# Blocks of a stage, window, stride of the first block, how many times wider it is inside, channels that it gives.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, FEATURES, CLASSES = 32, 1280, 1000


def _convolution(into: int, out: int, window: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its norm; of an even side it gives side / stride, as TensorFlow pads it."""
    rim = window - stride
    before, after = rim // 2, rim - rim // 2
    padding = [nn.ZeroPad2d((before, after, before, after))] if rim else []
    convolution = nn.Conv2d(into, out, window, stride, groups=groups, bias=False)
    return [*padding, convolution, nn.BatchNorm2d(out, eps=1e-3)]


class _Block(nn.Module):
    """Wider, a window for each channel, narrower again; added to what came in if it has the same shape."""

    def __init__(self, into: int, out: int, window: int, stride: int, times: int) -> None:
        super().__init__()
        wide = into * times
        layers = [*_convolution(into, wide), nn.ReLU6()] if times > 1 else []
        layers += [*_convolution(wide, wide, window, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, *_convolution(wide, out))
        self.adds = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found + x if self.adds else found


class EfficientNetLite0(nn.Module):
    """The network, with random weights; see `prepared` for what it takes."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        into = STEM
        for count, window, stride, times, out in STAGES:
            for number in range(count):
                blocks.append(_Block(into, out, window, 1 if number else stride, times))
                into = out
        stem = [*_convolution(3, STEM, 3, 2), nn.ReLU6()]
        self.layers = nn.Sequential(*stem, *blocks, *_convolution(into, FEATURES), nn.ReLU6())
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def features(self, pixels: Tensor) -> Tensor:
        """Features (B, 1280), each from 0 to 6, of prepared images (B, 3, 224, 224)."""
        return functional.adaptive_avg_pool2d(self.layers(pixels), 1).flatten(1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores (B, 1000) of ImageNet's classes in their usual order, before the softmax."""
        found: Tensor = self.classifier(self.features(pixels))
        return found


def prepared(images: Tensor) -> Tensor:
    """Images as the network takes them, (B, 3, 224, 224), from images (B, 3, H, W), uint8.

    As its authors do: the middle square, 224/256 of the shorter side, resized by bicubic interpolation, then
    (x - 127) / 128. Where the square is made smaller, antialiasing is added, without which detail would become noise.
    """
    height, width = images.shape[-2:]
    side = max(1, min(height, width) * SIDE // (SIDE + RIM))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = images[..., top : top + side, left : left + side].float()
    resized = functional.interpolate(square, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True)
    return (resized - 127) / 128


class EfficientNetExtractor(Extractor):
    """The features of the shipped network."""

    mode = "efficientnet"

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0()
        self.network.load_state_dict(load_file(EFFICIENTNET))
        self.network.eval().requires_grad_(False)
        self.checkpoint, self.num_features = weights_hash(), FEATURES

    def features(self, images: Tensor) -> Tensor:
        return self.network.features(prepared(images))

    def identity(self) -> dict[str, Any]:
        return {
            "model": "EfficientNet-Lite0",
            "checkpoint": self.checkpoint,
            "features": f"{FEATURES} dimensions, before the classifier",
            "mode": self.mode,
            "resize": "middle square, 224/256 of the shorter side, to 224x224, bicubic with antialiasing",
            "dtype": "weights in float16, computed in float32, statistics in float64",
        }


def weights_hash() -> str:
    """16 hexadecimal digits of the shipped file."""
    return model_files.sha256(EFFICIENTNET)[:16]


@functools.lru_cache(maxsize=1)
def load() -> EfficientNetExtractor:
    """The extractor; one copy for all metrics and seeds."""
    return EfficientNetExtractor()
