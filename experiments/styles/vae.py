"""The autoencoder: 64 x 64 pixels to 16 x 16 latents of 8 channels."""

import random
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from experiments.styles.drawings import Drawings
from experiments.styles.split import Split
from postdiff.zoo import EMOJI

CHANNELS = 8
CROP = 32
BATCH = 16
# How often each style is taken: colour shading is the hardest to keep, flat ink the easiest.
SHARES = {"cartoon": 6, "stencil": 1, "pixel": 1, "outline": 2}


class StylesVAE(L.LightningModule):
    """AutoencoderKL trained on 32 x 32 crops and on whole images at half size.

    It starts from the emoji model's, where the shapes agree, and has twice its latent channels: lines need them. The
    loss is L1 + 8 L2 + 0.5 L1 of the differences of neighbouring pixels + 1e-4 KL.
    """

    def __init__(self, channels: tuple[int, ...] = (24, 48, 96), from_emoji: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.values: dict[str, float] = {}
        self.vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            latent_channels=CHANNELS,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=64,
            scaling_factor=1.0,
        )
        if from_emoji:
            ours, theirs = self.vae.state_dict(), AutoencoderKL.from_pretrained(EMOJI / "vae").state_dict()
            fitting = {name: value for name, value in theirs.items() if value.shape == ours[name].shape}
            self.vae.load_state_dict(ours | fitting)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        x = batch["image"].mul(2).sub(1)
        posterior = self.vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(batch["step"]))
        y = self.vae.decode(posterior.mean + posterior.std * noise.to(x.device)).sample.float()
        edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        mse = F.mse_loss(y, x)
        kl = posterior.kl().mean() / x[0].numel()
        self.values = {"mse": mse.item()}
        return F.l1_loss(y, x) + 8 * mse + 0.5 * edges + 1e-4 * kl

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, betas=(0.9, 0.99))


class Crops:
    """Batches of images in [0, 1], (16, 3, 32, 32): three quarters crops, the others whole at half size.

    Crops start at multiples of 4 pixels, where the latents' cells and those of pixel art do.
    """

    def __init__(self, drawings: Drawings, split: Split) -> None:
        self.drawings, self.split = drawings, split
        self.seen = {style: [one for one in split.seen() if one[1] == style] for style in SHARES}
        self.number = {concept: index for index, concept in enumerate(split.concepts)}

    def __call__(self, step: int) -> dict[str, Tensor]:
        randomness = random.Random(f"vae {step}")
        images = []
        for place in range(BATCH):
            (share,) = randomness.choices(list(SHARES), list(SHARES.values()))
            concept, style, colour = randomness.choice(self.seen[share])
            image = self.drawings.image(self.number[concept], style, colour, randomness)
            if place < BATCH // 4:
                image = F.avg_pool2d(image, 2)
            else:
                y, x = (4 * randomness.randrange((64 - CROP) // 4 + 1) for _ in range(2))
                image = image[:, y : y + CROP, x : x + CROP]
            images.append(image.flip(-1) if randomness.random() < 0.5 else image)
        return {"image": torch.stack(images)}


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latent means of images in [0, 1], (N, 3, H, W) to (N, 8, H/4, W/4)."""
    chunks = images.mul(2).sub(1).split(64)
    return torch.cat([vae.encode(chunk.to(vae.device)).latent_dist.mode().cpu() for chunk in chunks])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images in [0, 1] of latents, (N, 8, H, W) to (N, 3, 4H, 4W)."""
    images = torch.cat([vae.decode(chunk.to(vae.device)).sample.cpu() for chunk in latents.split(64)])
    return images.add(1).div(2).clamp(0, 1)


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Make the latents of `images` zero-mean and unit-variance per channel, without changing any reconstruction.

    The mean and the spread go into `quant_conv` and `post_quant_conv`, two 1x1 convolutions, so the files stay a stock
    AutoencoderKL with `scaling_factor` 1.
    """
    std, mean = torch.std_mean(encode(vae, images), dim=(0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    # quant_conv gives the means, then the log-variances.
    quant.weight[:CHANNELS] /= std[:, None, None, None]
    quant.bias[:CHANNELS] = (quant.bias[:CHANNELS] - mean) / std
    quant.bias[CHANNELS:] -= 2 * std.log()


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Decibels of every pair of images in [0, 1], (N,)."""
    return -10 * (images - others).square().mean((1, 2, 3)).clamp(min=1e-10).log10()
