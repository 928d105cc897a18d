"""The autoencoder: 64x64 pixels to 16x16 latents of 4 channels."""

import lightning as L
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from experiments.train_emoji.data import encode, half_size

CROP = 32


class EmojiVAE(L.LightningModule):
    """AutoencoderKL trained on 32x32 crops and on whole images at half size.

    A crop costs a quarter of an image, so that there are four times as many updates in the same time; the network is
    convolutional and works at every size. The loss is L1 + 2 L2 + 0.5 L1 of the differences of neighbouring pixels
    (edges carry an emoji) + 1e-4 KL.
    """

    def __init__(self, peak_lr: float = 2e-3, channels: tuple[int, ...] = (24, 48, 96)) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fraction = 0.0
        self.vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            latent_channels=4,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=64,
            scaling_factor=1.0,
        )

    def training_step(self, batch: dict, batch_index: int) -> Tensor:
        x = crops(batch["image"]).mul(2).sub(1)
        posterior = self.vae.encode(x).latent_dist
        y = self.vae.decode(posterior.sample()).sample.float()
        edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        mse = F.mse_loss(y, x)
        kl = posterior.kl().mean() / x[0].numel()
        self.log("mse", mse.detach())
        return F.l1_loss(y, x) + 2 * mse + 0.5 * edges + 1e-4 * kl

    def configure_optimizers(self) -> torch.optim.Optimizer:
        peak = self.hparams.peak_lr
        return torch.optim.AdamW([{"params": list(self.parameters()), "lr": peak, "peak_lr": peak}], betas=(0.9, 0.99))


def crops(images: Tensor) -> Tensor:
    """Two thirds of the batch as random 32x32 crops, one third whole at 32x32; half of all mirrored."""
    whole = len(images) // 3
    corners = torch.randint(images.shape[-1] - CROP + 1, (len(images) - whole, 2)).tolist()
    cut = [image[:, y : y + CROP, x : x + CROP] for image, (y, x) in zip(images[whole:], corners, strict=True)]
    out = torch.cat([half_size(images[:whole]), torch.stack(cut)])
    logged = torch.rand(len(out), 1, 1, 1, device=out.device) < 0.5
    return torch.where(logged, out.flip(-1), out)


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Make the latents of `images` zero-mean and unit-variance per channel, without changing any reconstruction.

    z' = (z - mean) / std goes into `quant_conv` and its inverse into `post_quant_conv`, two 1x1 convolutions, so the
    files stay a stock AutoencoderKL with `scaling_factor` 1. The diffusion then starts from the right scale, and a
    white background is not an offset it has to learn.
    """
    z = encode(vae, images)
    std, mean = torch.std_mean(z, dim=(0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    # quant_conv gives 4 means, then 4 log-variances.
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
