"""Tiny twins of the published models that take more than text: folders as they would be on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, MotionAdapter, TextToVideoSDPipeline

from tests.support import texts, tiny, whole
from tests.support.parts import SCHEDULERS, unet, vae


def controlnet() -> ControlNetModel:
    """For the network of `whole.sd15`, with residuals that are not zero."""
    torch.manual_seed(2)
    made = ControlNetModel.from_unet(unet(layers=1), conditioning_embedding_out_channels=(8, 8))
    for name, parameter in made.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def motion_adapter() -> MotionAdapter:
    """For the network of `whole.sd15`."""
    torch.manual_seed(4)
    return MotionAdapter(
        block_out_channels=(8, 16, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )


def text_to_video() -> TextToVideoSDPipeline:
    return TextToVideoSDPipeline(
        vae=vae(),
        text_encoder=texts.clip_text(),
        tokenizer=texts.clip_tokenizer(),
        unet=tiny.build("text_to_video").pipe.unet,
        scheduler=SCHEDULERS["ddim"](),
    )


# Card: pipeline, and the network that the card brings along.
TWINS: dict[str, tuple[Callable[[], Any], tuple[str, Callable[[], Any]] | None]] = {
    "controlnet_canny": (whole.sd15, ("controlnet", controlnet)),
    "controlnet_scribble": (whole.sd15, ("controlnet", controlnet)),
    "sd15_img2img": (whole.sd15, None),
    "sdxl_img2img": (whole.sdxl, None),
    "dit_xl_256": (lambda: tiny.build("dit").pipe, None),
    "dit_xl_512": (lambda: tiny.build("dit").pipe, None),
    "videofusion": (text_to_video, None),
    "animatediff": (whole.sd15, ("motion_adapter", motion_adapter)),
}


def save(name: str, folder: Path, variant: str | None = None) -> dict[str, Path]:
    """Save the twin of a card's model; gives {"": pipeline folder, part: its folder}."""
    build, part = TWINS[name]
    saved = {"": folder / "pipeline"}
    build().save_pretrained(saved[""], variant=variant)
    if part is not None:
        key, make = part
        saved[key] = folder / key
        make().save_pretrained(saved[key])
    return saved
