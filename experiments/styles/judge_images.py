"""What the judge is trained on: images of seen pairs, real and through the autoencoder, varied by batch."""

import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from experiments.styles.captions import COLOURS, STYLES
from experiments.styles.drawings import Drawings
from experiments.styles.split import Split
from experiments.styles.vae import decode, encode

BATCH = 64


class Bank:
    """Images in memory with their classes.

    Args:
        images: uint8 (N, 3, 64, 64).
        subjects: (concept, style, colour) as numbers, (N, 3).
    """

    def __init__(self, images: Tensor, subjects: Tensor) -> None:
        self.images, self.subjects = images, subjects

    @classmethod
    def of(cls, drawings: Drawings, triples: list[tuple[int, str, str]], seed: str, times: int = 1) -> "Bank":
        """Every triple `times` times, each with a jitter of its own."""
        randomness = random.Random(seed)
        images = drawings.images(triples * times, randomness).mul(255).round().byte()
        names = list(COLOURS)
        subjects = [(concept, STYLES.index(style), names.index(colour)) for concept, style, colour in triples]
        return cls(images, torch.tensor(subjects * times))

    def through(self, vae: AutoencoderKL) -> "Bank":
        """The same images after the autoencoder."""
        images = [decode(vae, encode(vae, chunk / 255)) for chunk in self.images.split(256)]
        return Bank(torch.cat(images).mul(255).round().byte(), self.subjects)

    def __add__(self, other: "Bank") -> "Bank":
        return Bank(torch.cat([self.images, other.images]), torch.cat([self.subjects, other.subjects]))

    def where(self, kept: Tensor) -> "Bank":
        """The images for which a mask (N,) is true."""
        return Bank(self.images[kept], self.subjects[kept])

    def __len__(self) -> int:
        return len(self.images)

    def floats(self) -> Tensor:
        """All images in [0, 1]."""
        return self.images / 255


def seen_bank(drawings: Drawings, split: Split, times: int = 2) -> Bank:
    """Images of everything that training may see."""
    return Bank.of(drawings, split.numbered(split.seen()), "judge", times)


def held_bank(drawings: Drawings, split: Split, times: int = 2) -> Bank:
    """Images of the held-out (concept, style) pairs in every colour."""
    held = [(concept, style, colour) for concept, style in split.held_pairs() for colour in COLOURS]
    return Bank.of(drawings, split.numbered(held), "held", times)


class Batches:
    """The batch of a step, varied: `column` 0 asks for the concept, 1 for the style.

    Styles are told by texture, so their images are only moved and flipped. Concepts are told by shape, so theirs are
    also turned, resized, blurred and recoloured: no treatment that is a style.
    """

    def __init__(self, bank: Bank, column: int) -> None:
        self.bank, self.column = bank, column

    def __call__(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(self.bank), (BATCH,), generator=generator)
        images = self.bank.images[chosen] / 255
        images = vary(images, generator) if self.column == 0 else move(images, generator)
        return {"image": images, "label": self.bank.subjects[chosen, self.column]}


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flipped or not, and moved by up to 3 pixels in whole pixels; the background goes on at the rim.

    Red, green and blue are put in another order, and half of the images are made negative: a style must not be told by
    the colours it was never seen on.
    """
    order = torch.argsort(torch.rand(len(images), 3, generator=generator), dim=1)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    images = torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, 1 - images, images)
    right, down = (int(torch.randint(7, (), generator=generator)) for _ in range(2))
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    moved = padded[:, :, down : down + images.shape[2], right : right + images.shape[3]]
    return torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, moved.flip(-1), moved)


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turned, resized, moved, flipped, blurred and recoloured at random."""
    count = len(images)
    angle, size = uniform(generator, count, -0.25, 0.25), uniform(generator, count, -0.25, 0.2).exp()
    sign = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = size * angle.cos(), size * angle.sin()
    shift = uniform(generator, 2 * count, -0.12, 0.12).view(2, count)
    rows = torch.stack(
        [torch.stack([cosine * sign, -sine, shift[0]], 1), torch.stack([sine * sign, cosine, shift[1]], 1)], 1
    )
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for cells in (2, 4):
        coarse = F.interpolate(F.avg_pool2d(images, cells), scale_factor=cells, mode="bilinear")
        images = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.15, coarse, images)
    # Channels mixed at random, or all the same: the shape stays, the colours do not.
    mixing = torch.rand(count, 3, 3, generator=generator) * 2 - 0.6
    mixing = mixing / mixing.sum(2, keepdim=True).clamp(min=0.3)
    mixing[: count // 4] = mixing[: count // 4, :1]
    mixed = torch.einsum("nij,njhw->nihw", mixing, images).clamp(0, 1)
    mixed = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, 1 - mixed, mixed)
    images = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, mixed, images)
    noise = torch.randn(images.shape, generator=generator) * uniform(generator, count, 0, 0.04).view(-1, 1, 1, 1)
    return (images + noise).clamp(0, 1)
