"""Batches of emoji with one of their names each, for every part of the model."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, IterableDataset

from experiments.train_emoji.fetch import Emoji, read_images


class EmojiBatches(IterableDataset):
    """Endless batches that pass over all images in a new random order each time."""

    def __init__(self, tensors: dict[str, torch.Tensor], captions: list[tuple[str, ...]], batch_size: int) -> None:
        self.tensors, self.captions, self.batch_size = tensors, captions, batch_size

    def __iter__(self) -> Iterator[dict]:
        random = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        order = torch.empty(0, dtype=torch.int64)
        while True:
            while len(order) < self.batch_size:
                order = torch.cat([order, torch.randperm(len(self.captions), generator=random)])
            index, order = order[: self.batch_size], order[self.batch_size :]
            draws = torch.randint(1 << 30, (len(index),), generator=random).tolist()
            names = [self.captions[i] for i in index.tolist()]
            yield {
                "caption": [names[i][draw % len(names[i])] for i, draw in enumerate(draws)],
                **{key: value[index] for key, value in self.tensors.items()},
            }


class EmojiData(L.LightningDataModule):
    """The images, and, given an autoencoder, their latents at full and half size.

    The images are few enough to be kept whole in memory, and encoding them once costs less than one training step
    an image: the autoencoder is frozen by the time that the UNet trains.

    Args:
        emoji: What to train on.
        batch_size: Images in a batch.
        vae: Folder of the trained autoencoder. Batches hold "image" (B, 3, 64, 64) in [0, 1], and with it also
            "autoencoded", of the same shape, and the latents "full" (B, 4, 16, 16) and "half" (B, 4, 8, 8).
    """

    def __init__(self, emoji: list[Emoji], batch_size: int, vae: Path | None = None) -> None:
        super().__init__()
        self.emoji, self.batch_size, self.vae = emoji, batch_size, vae

    def setup(self, stage: str) -> None:
        images = read_images(self.emoji)
        self.tensors = {"image": images}
        if self.vae is not None:
            vae = AutoencoderKL.from_pretrained(self.vae)
            full, half = encode(vae, images), encode(vae, half_size(images))
            self.tensors |= {"autoencoded": decode(vae, full), "full": full, "half": half}

    def train_dataloader(self) -> DataLoader:
        captions = [one.captions for one in self.emoji]
        return DataLoader(EmojiBatches(self.tensors, captions, self.batch_size), batch_size=None)


def half_size(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) to (B, 3, H/2, W/2), each pixel the mean of four."""
    return F.avg_pool2d(images, 2)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Latent means of images in [0, 1], (N, 3, H, W) to (N, 4, H/4, W/4)."""
    chunks = images.mul(2).sub(1).split(32)
    return torch.cat([vae.encode(chunk.to(vae.device)).latent_dist.mode().cpu() for chunk in chunks])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] of latents, (N, 4, H, W) to (N, 3, 4H, 4W)."""
    images = torch.cat([vae.decode(chunk.to(vae.device)).sample.cpu() for chunk in latents.split(32)])
    return images.add(1).div(2).clamp(0, 1)
