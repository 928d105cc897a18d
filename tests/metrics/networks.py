"""Tiny networks saved as the real ones are: TorchScript files, Inception's interface among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

FEATURES = 6
CLASSES = 5


class Small(nn.Module):
    """Float images from 0 to 255 of any size to (B, FEATURES); `logits` gives (B, CLASSES)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=4)
        self.second = nn.Conv2d(8, FEATURES, 3, stride=2)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return 40 * self.second(torch.relu(self.first(images / 64 - 2))).square().mean(dim=[2, 3])

    @torch.jit.export
    def logits(self, images: Tensor) -> Tensor:
        return 0.1 * self.head(self.forward(images))


class Layers(nn.Module):
    """What stands in for Inception's layers: images from -1 to 1 to (B, 2048, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2048, 7, stride=16)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).abs().mean(dim=[2, 3], keepdim=True)


class LikeInception(nn.Module):
    """The interface of inception-2015-12-05.pt."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()
        self.output = nn.Linear(2048, CLASSES)

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        features = self.layers(nn.functional.interpolate(images, [299, 299]) / 128 - 1).flatten(1)
        if return_features:
            return features
        scores = features @ self.output.weight.T
        return (scores if no_output_bias else scores + self.output.bias).softmax(1)


def save(network: type[nn.Module], file: Path, seed: int = 0) -> Path:
    """Write a network with random weights as a TorchScript file."""
    torch.manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(network().eval()).save(str(file))
    return file


def images(seed: int, count: int, size: int = 40) -> Tensor:
    """Smooth random images (count, 3, size, size), uint8."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, 5, 5, generator=generator) * (0.4 + 0.2 * seed)
    smooth = nn.functional.interpolate(rough, (size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def save_images(folder: Path, images: Tensor) -> Path:
    """Write images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{number:03d}.png")
    return folder
