"""Tiny pipelines from prompt to image, with tokenizer and text encoder: twins of the published models."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from tests.support import texts
from tests.support.parts import SCHEDULERS, SDXL, unet, vae
from tests.support.transformers import pixart_transformer

PIXELS = 32


def image(run: Any, **changes: Any) -> torch.Tensor:
    """One image (3, PIXELS, PIXELS) in 2 steps, always from the same noise."""
    size = {"height": PIXELS, "width": PIXELS}
    if "PixArt" in type(getattr(run, "pipe", run)).__name__:
        size["use_resolution_binning"] = False  # it would go to the nearest size of about 1024 pixels
    run_with = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt", **size, **changes}
    return run("a red apple", generator=torch.Generator().manual_seed(7), **run_with).images[0]


def sd15() -> StableDiffusionPipeline:
    """With a safety checker, as published."""
    return StableDiffusionPipeline(**_parts(unet(layers=1), "pndm"), **_safety())


def sd15_lcm() -> LatentConsistencyModelPipeline:
    """Its network is told the guidance scale."""
    return LatentConsistencyModelPipeline(**_parts(unet(layers=1, time_cond_proj_dim=16), "lcm"), **_safety())


def sdxl() -> StableDiffusionXLPipeline:
    """Two text encoders."""
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=texts.clip_text(16),
        text_encoder_2=texts.clip_text(16, projection=24),
        tokenizer=texts.clip_tokenizer(),
        tokenizer_2=texts.clip_tokenizer(),
        unet=unet(layers=1, **SDXL),
        scheduler=SCHEDULERS["euler"](),
        add_watermarker=False,
    )


def sdxl_lcm_network() -> UNet2DConditionModel:
    """What the authors of LCM publish for SDXL."""
    return unet(layers=1, time_cond_proj_dim=16, **SDXL)


def pixart_alpha() -> PixArtAlphaPipeline:
    return _pixart(PixArtAlphaPipeline)


def pixart_sigma() -> PixArtSigmaPipeline:
    return _pixart(PixArtSigmaPipeline)


def _pixart(cls: type) -> Any:
    return cls(
        tokenizer=texts.t5_tokenizer(),
        text_encoder=texts.t5(),
        vae=vae(),
        transformer=pixart_transformer(),
        scheduler=SCHEDULERS["dpm++"](),
    )


def _parts(network: UNet2DConditionModel, scheduler: str) -> dict[str, Any]:
    return {
        "vae": vae(),
        "unet": network,
        "text_encoder": texts.clip_text(),
        "tokenizer": texts.clip_tokenizer(),
        "scheduler": SCHEDULERS[scheduler](),
    }


def _safety() -> dict[str, Any]:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(3)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=shape, vision_config={**shape, "image_size": PIXELS, "patch_size": 8}, projection_dim=8)
    )
    size = {"height": PIXELS, "width": PIXELS}
    return {
        "safety_checker": checker.eval(),
        "feature_extractor": CLIPImageProcessor(size=size, crop_size=size),
        "requires_safety_checker": True,
    }
