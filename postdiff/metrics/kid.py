"""Kernel distances: mean over seeded random subsets of the unbiased squared MMD with a cubic kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from postdiff.engine.values import LARGEST
from postdiff.metrics.base import check_choice, check_ranges
from postdiff.metrics.features import (
    INCEPTION_MODES,
    MOST_IMAGES,
    MOST_PARTS,
    Compared,
    FeatureMetric,
    ReferenceOptions,
    in_order,
)
from postdiff.metrics.reference import ReferenceStatistics

__all__ = ["KID", "KIDOptions", "KernelEfficientNet", "SubsetOptions", "kernel_distance", "subsets"]


def kernel_distance(real: Tensor, generated: Tensor) -> Tensor:
    """Unbiased squared MMD of features, both (m, d), with the kernel (x.y / d + 1)^3; a float64 scalar.

    As clean-fid and the authors have it, the mixed term runs over all m^2 pairs.
    """
    x, y = real.double(), generated.double()
    size, length = x.shape
    own = (x @ x.T / length + 1) ** 3 + (y @ y.T / length + 1) ** 3
    mixed = (x @ y.T / length + 1) ** 3
    return ((own.sum() - own.diagonal().sum()) / (size - 1) - 2 * mixed.sum() / size) / size


@dataclass
class SubsetOptions(Compared):
    """The kernel distance.

    Attributes:
        subsets: how many random subsets the value is the mean of.
        subset_size: images in each; fewer if there are fewer.
        seed: of the subsets.
    """

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, subsets=(1, MOST_PARTS), subset_size=(2, MOST_IMAGES), seed=(0, LARGEST))


@dataclass
class KIDOptions(SubsetOptions, ReferenceOptions):
    """The same in Inception's features.

    Attributes:
        mode: clean, legacy_pytorch or legacy_tensorflow.
    """

    mode: str = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "mode", INCEPTION_MODES)


def subsets(real: int, generated: int, options: SubsetOptions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of the real and of the generated images in each subset.

    Equal numbers of images that all fit into one subset make only one: all subsets would be the same.
    """
    size = min(real, generated, options.subset_size)
    generator = np.random.default_rng(options.seed)
    for _ in range(1 if size == real == generated else options.subsets):
        yield generator.choice(real, size, replace=False), generator.choice(generated, size, replace=False)


class KID(FeatureMetric):
    """Kernel Inception distance, not scaled; needs Inception and 'postdiff data statistics'.

    Unbiased also for few images.

    Reference:
        Binkowski et al., "Demystifying MMD GANs", ICLR 2018, arXiv:1801.01401, Sec. 4.
    """

    title = "KID"
    higher_is_better = False
    digits = 5
    least = 2
    real: ReferenceStatistics
    Options = KIDOptions

    def value(self, features: Tensor) -> Tensor:
        assert self.real.features is not None
        real = in_order(self.real.features.to(features.device))
        found = [
            kernel_distance(real[torch.from_numpy(of_real)], features[torch.from_numpy(of_generated)])
            for of_real, of_generated in subsets(len(real), len(features), self.options)
        ]
        return torch.stack(found).mean()

    def identity(self) -> dict[str, Any]:
        options = self.options
        subsets_are = f"{options.subsets} subsets of at most {options.subset_size}, seed {options.seed}"
        return {**super().identity(), "kernel": "(x.y / d + 1)^3, unbiased", "subsets": subsets_are}


class KernelEfficientNet(KID):
    """Kernel distance in features of EfficientNet-Lite0, which ships; not KID; needs 'postdiff data statistics'."""

    title = "Kernel (EfficientNet)"
    mode = "efficientnet"
    Options = SubsetOptions  # type: ignore[assignment]
