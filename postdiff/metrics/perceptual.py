"""LPIPS and DISTS to the reference run's image: torchmetrics' networks around torchvision's weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.functional.image.dists import DISTSNetwork
from torchmetrics.functional.image.lpips import _NoTrainLpips
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

from postdiff import model_files
from postdiff.engine.errors import UsageError
from postdiff.metrics.base import PerImageMetric, Resources, check_choice
from postdiff.metrics.checkpoints import WeightFile
from postdiff.zoo import ALEXNET

__all__ = ["DISTS", "LPIPS", "DISTSOptions", "LPIPSOptions"]

# torchvision's, which LPIPS and DISTS build upon; their own small weights are in torchmetrics. AlexNet's convolutions
# ship, for whoever names no file.
BACKBONES = {
    "alex": WeightFile("AlexNet", "POSTDIFF_ALEXNET", AlexNet_Weights.DEFAULT.url),
    "vgg": WeightFile("VGG16", "POSTDIFF_VGG16", VGG16_Weights.DEFAULT.url),
    "squeeze": WeightFile("SqueezeNet 1.1", "POSTDIFF_SQUEEZENET", SqueezeNet1_1_Weights.DEFAULT.url),
}


def _place(net: str, named: str | None) -> Path:
    file = BACKBONES[net]
    return ALEXNET if net == "alex" and file.given(named) is None else file.place(named)


def _backbone(net: str, named: str | None) -> Path:
    if (place := _place(net, named)) == ALEXNET:
        return place
    file = BACKBONES[net]
    return file.found(f"LPIPS and DISTS with {net} need torchvision's {file.name}", named)


@dataclass
class LPIPSOptions:
    """LPIPS.

    Attributes:
        net: alex, vgg or squeeze.
        weights: torchvision's weight file of that network; of alex one ships.
    """

    net: str = "alex"
    weights: str | None = None

    def __post_init__(self) -> None:
        check_choice(self, "net", BACKBONES)


@dataclass
class DISTSOptions:
    """DISTS.

    Attributes:
        weights: torchvision's weight file of VGG16.
    """

    weights: str | None = None


class _Perceptual(PerImageMetric):
    higher_is_better = False
    digits = 4
    needs = ("references",)

    @classmethod
    def rests_on(cls, options: Any, resources: Resources) -> list[str | None]:
        file = _place(getattr(options, "net", "vgg"), options.weights)
        return [model_files.sha256(file)[:16] if file.is_file() else None]

    def __init__(self, network: nn.Module, name: str, file: Path) -> None:
        super().__init__()
        self.network, self.name, self.checkpoint = network, name, model_files.sha256(file)[:16]

    def identity(self) -> dict[str, Any]:
        return {"model": self.name, "checkpoint": self.checkpoint, "resize": "none", "dtype": "float32"}


class LPIPS(_Perceptual):
    """Learned perceptual distance to the reference run of the same prompt and seed; AlexNet's weights ship.

    It is version 0.1 with the authors' linear layers; 0 for equal images. The shipped weights are in fp16, and the
    distance is computed in fp32.

    Reference:
        Zhang et al., CVPR 2018, arXiv:1801.03924.
    """

    title = "LPIPS"
    Options = LPIPSOptions

    def __init__(self, options: LPIPSOptions) -> None:
        file = _backbone(options.net, options.weights)
        super().__init__(_lpips(options.net, file), f"LPIPS 0.1, {options.net}", file)
        self.smallest = 31 if options.net == "alex" else 1  # pixels a side; below it nothing is left to pool

    @torch.no_grad()
    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in images and references, (B, 3, H, W), uint8.

        Raises:
            UsageError: they are too small for the network.
        """
        if min(images.shape[-2:]) < self.smallest:
            raise UsageError(
                f"{self.name} needs images of at least {self.smallest} pixels a side, these have {images.shape[-1]} x "
                f"{images.shape[-2]}; leave paired_lpips out"
            )
        self.add(self.network(images.float() / 127.5 - 1, references.float() / 127.5 - 1).reshape(-1))


class DISTS(_Perceptual):
    """Distance of structure and texture to the reference run of the same prompt and seed; needs VGG16's weights.

    It is 0 for equal images.

    Reference:
        Ding et al., TPAMI 2020, arXiv:2004.07728.
    """

    title = "DISTS"
    Options = DISTSOptions

    def __init__(self, options: DISTSOptions) -> None:
        file = _backbone("vgg", options.weights)
        super().__init__(_dists(file), "DISTS, vgg", file)

    @torch.no_grad()
    def update(self, images: Tensor, references: Tensor) -> None:
        """Take in images and references, (B, 3, H, W), uint8."""
        self.add(self.network(images.float() / 255, references.float() / 255).reshape(-1))


# One copy for all seeds.
@functools.lru_cache(maxsize=1)
def _lpips(net: str, file: Path) -> nn.Module:
    if file == ALEXNET:
        network = _NoTrainLpips(net="alex", pnet_rand=True)
        shipped = load_file(file)
        # "slice2.3.weight" is torchvision's "features.3.weight".
        names = {name: f"features.{name.partition('.')[2]}" for name in network.net.state_dict()}
        network.net.load_state_dict({name: shipped[theirs] for name, theirs in names.items()})
        return network.eval().requires_grad_(False)
    with BACKBONES[net].in_place(file):
        network = _NoTrainLpips(net=net)  # type: ignore[arg-type]
    return network.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def _dists(file: Path) -> nn.Module:
    with BACKBONES["vgg"].in_place(file):
        return DISTSNetwork().eval().requires_grad_(False)
