"""How like two images look, in LPIPS: to the true drawing or to one that training showed, and of two seeds.

A model that combines draws the held-out pair, which it never saw; a model that recalls draws the nearest image of
training. And one whose seeds matter draws two seeds of a prompt about as far apart as two prompts.
"""

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.styles.captions import Subject
from experiments.styles.drawings import Drawings
from experiments.styles.split import Split
from postdiff.metrics.perceptual import LPIPS, LPIPSOptions

AT_ONCE = 64


@functools.cache
def _network() -> torch.nn.Module:
    return LPIPS(LPIPSOptions()).network


@torch.no_grad()
def lpips(first: Tensor, second: Tensor) -> Tensor:
    """LPIPS (AlexNet) of images in [0, 1] with those of the same places, (N, 3, H, W) both; (N,)."""
    pairs = zip(first.split(AT_ONCE), second.split(AT_ONCE), strict=True)
    return torch.cat([_network()(one * 2 - 1, other * 2 - 1).reshape(-1) for one, other in pairs])


def to_true_and_nearest(
    images: Tensor, subjects: list[Subject], drawings: Drawings, split: Split
) -> tuple[Tensor, Tensor]:
    """LPIPS to the prompt's own drawing, and to the nearest image of training on the same background; both (N,)."""
    true = drawings.images(split.numbered(subject.whole() for subject in subjects))
    seen: dict[str, Tensor] = {}
    nearest = []
    for image, subject in zip(images, subjects, strict=True):
        colour = str(subject.colour)
        if colour not in seen:
            seen[colour] = drawings.images(split.numbered(one for one in split.seen() if one[2] == colour))
        others = seen[colour]
        nearest.append(lpips(image.expand_as(others), others).min())
    return lpips(images, true), torch.stack(nearest)


def of_seeds(images: Tensor) -> Tensor:
    """LPIPS of every two seeds of a prompt; images (seeds, prompts, 3, H, W)."""
    return torch.cat([lpips(one, other) for one, other in itertools.combinations(images, 2)])


def of_prompts(images: Tensor, subjects: list[Subject]) -> Tensor:
    """LPIPS of every two prompts that differ in the concept alone, of the same seed; images (seeds, prompts, ...)."""
    pairs = list(_same_but_concept(subjects))
    first, second = torch.tensor(pairs).unbind(1)
    return torch.cat([lpips(one[first], one[second]) for one in images])


def _same_but_concept(subjects: list[Subject]) -> Iterator[tuple[int, int]]:
    for (first, one), (second, other) in itertools.combinations(enumerate(subjects), 2):
        if (one.style, one.colour) == (other.style, other.colour) and one.concept != other.concept:
            yield first, second
