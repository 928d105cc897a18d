"""Parts of tiny pipelines: solvers by name, a U-Net and an autoencoder with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CROSS = 32

SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: DDIMScheduler(**BETAS, clip_sample=False),
    "dpm++": lambda: DPMSolverMultistepScheduler(**BETAS),
    "dpm++_karras": lambda: DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**BETAS),
    "euler_ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**BETAS),
    "pndm": lambda: diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**BETAS),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**BETAS),
    "lcm": lambda: LCMScheduler(**BETAS),
    "ddpm": lambda: DDPMScheduler(**BETAS, clip_sample=False),
    "dpm++_sde": lambda: DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++"),
    "ddim_v": lambda: DDIMScheduler(**BETAS, clip_sample=False, prediction_type="v_prediction"),
    "euler_v": lambda: diffusers.EulerDiscreteScheduler(**BETAS, prediction_type="v_prediction"),
}
# What makes a U-Net one of SDXL: micro-conditioning in pixels, pooled text of 24 channels, deeper blocks.
SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 24,
    "transformer_layers_per_block": (1, 2, 1),
}
DETERMINISTIC = ("ddim", "dpm++", "euler", "pndm", "unipc", "heun", "ddim_v", "euler_v")


def unet(layers: int = 1, levels: int = 3, **changes: Any) -> UNet2DConditionModel:
    """Two or three levels of `layers` layers; all but the lowest have text cross-attention.

    `changes` go over its configuration; what has one entry a level loses the middle one for two levels.
    """
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": layers,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CROSS,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    options |= changes
    if levels == 2:
        options |= {name: (each[0], each[2]) for name, each in options.items() if isinstance(each, tuple)}
    return UNet2DConditionModel(**options).eval()


def vae(levels: int = 2) -> AutoencoderKL:
    """`levels` resolutions, so that a latent pixel is 2 ** (levels - 1) pixels wide."""
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    ).eval()
