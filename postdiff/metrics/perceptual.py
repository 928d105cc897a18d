"""LPIPS and DISTS to the reference run's picture: torchmetrics' networks around torchvision's weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.dists import DISTSNetwork
from torchmetrics.functional.image.lpips import _NoTrainLpips
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

from postdiff.metrics import torch_files
from postdiff.metrics.base import PerImageMetric
from postdiff.metrics.checkpoints import hash_of
from postdiff.metrics.options import DISTSOptions, LPIPSOptions

__all__ = ["DISTS", "LPIPS", "weights_file", "weights_place"]

ADDRESS = {
    "alex": AlexNet_Weights.DEFAULT.url,
    "vgg": VGG16_Weights.DEFAULT.url,
    "squeeze": SqueezeNet1_1_Weights.DEFAULT.url,
}
NAME = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet 1.1"}
VARIABLE = {"alex": "POSTDIFF_ALEXNET", "vgg": "POSTDIFF_VGG16", "squeeze": "POSTDIFF_SQUEEZENET"}


def weights_place(net: str, place: str | None) -> Path:
    """Where the file of `weights_file` is or should be."""
    return torch_files.place_of(ADDRESS[net], VARIABLE[net], place)


def weights_file(net: str, place: str | None) -> Path:
    """torchvision's weights of a network, which LPIPS and DISTS build upon; their own small ones are in torchmetrics.

    Raises:
        UsageError: they are not on this machine.
    """
    return torch_files.found(
        f"LPIPS and DISTS with {net} need torchvision's {NAME[net]}", ADDRESS[net], VARIABLE[net], place
    )


class _Perceptual(PerImageMetric):
    higher_is_better = False

    def __init__(self, network: nn.Module, name: str, file: Path) -> None:
        super().__init__()
        self.network, self.name, self.checkpoint = network, name, hash_of(file)

    def identity(self) -> dict[str, Any]:
        return {"model": self.name, "checkpoint": self.checkpoint, "resize": "none", "dtype": "float32"}


class LPIPS(_Perceptual):
    """Mean learned perceptual distance, version 0.1, with the authors' linear layers; 0 for equal pictures.

    Reference:
        Zhang et al., CVPR 2018, arXiv:1801.03924.
    """

    def __init__(self, options: LPIPSOptions) -> None:
        file = weights_file(options.net, options.weights)
        super().__init__(_lpips(options.net, file), f"LPIPS 0.1, {options.net}", file)

    @torch.no_grad()
    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in pictures and references, (B, 3, H, W), uint8."""
        pair = [pictures.float() / 127.5 - 1 for pictures in (images, references)]
        self.add(self.network(*pair).reshape(-1))


class DISTS(_Perceptual):
    """Mean distance of structure and texture; 0 for equal pictures.

    Reference:
        Ding et al., TPAMI 2020, arXiv:2004.07728.
    """

    def __init__(self, options: DISTSOptions) -> None:
        file = weights_file("vgg", options.weights)
        super().__init__(_dists(file), "DISTS, vgg", file)

    @torch.no_grad()
    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in pictures and references, (B, 3, H, W), uint8."""
        self.add(self.network(images.float() / 255, references.float() / 255).reshape(-1))


# One copy for all seeds.
@functools.lru_cache(maxsize=1)
def _lpips(net: str, file: Path) -> nn.Module:
    with torch_files.in_place_of(ADDRESS[net], file):
        network = _NoTrainLpips(net=net)  # type: ignore[arg-type]
    return network.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def _dists(file: Path) -> nn.Module:
    with torch_files.in_place_of(ADDRESS["vgg"], file):
        return DISTSNetwork().eval().requires_grad_(False)
