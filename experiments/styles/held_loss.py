"""v-loss of pairs that training never saw beside seen ones: whether a model still learns to combine, or to recall."""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.styles.captions import Subject
from experiments.styles.drawings import Drawings
from experiments.styles.latents import Captions
from experiments.styles.split import Split
from experiments.styles.unet import NOISE
from experiments.styles.vae import encode

AT_ONCE = 32


@torch.no_grad()
def v_losses(unet: UNet2DConditionModel, context: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of v, and the timestep, of every latent; both (N,).

    Timesteps are spread evenly over the schedule. They and the noise are the same at every call with as many latents.

    Args:
        unet: predicts v.
        context: of the captions, (N, tokens, width).
        latents: without noise, (N, 8, side, side).
    """
    scheduler, count = DDPMScheduler(**NOISE), len(latents)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    parts = (torch.randperm(count, generator=generator) + 0.5) / count
    t = (parts * scheduler.config.num_train_timesteps).long()
    noisy, target = scheduler.add_noise(latents, noise, t), scheduler.get_velocity(latents, noise, t)
    batches = zip(noisy.split(AT_ONCE), t.split(AT_ONCE), context.split(AT_ONCE), strict=True)
    v = torch.cat([unet(*batch).sample for batch in batches])
    return (v - target).square().mean((1, 2, 3)), t


@torch.no_grad()
def losses_of(
    folder: Path, subjects: list[Subject], vae: AutoencoderKL, drawings: Drawings, split: Split
) -> tuple[Tensor, Tensor]:
    """`v_losses` of true drawings of the subjects, each with a small jitter of its own.

    Args:
        folder: with the folders `unet`, `text_encoder` and `tokenizer`.
        subjects: with concept, style and colour.
        vae: encodes the drawings.
        drawings: of all concepts.
        split: numbers them.
    """
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    context = text_encoder(Captions(tokenizer, split.concepts).tokens(subjects)).last_hidden_state
    images = drawings.images(split.numbered(subject.whole() for subject in subjects), random.Random(0))
    return v_losses(unet, context, encode(vae, images))
