"""Tiny twins of the published models that take more than text: folders as they would be on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, MotionAdapter, TextToVideoSDPipeline

from tests.lab import modern_twins
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
    **modern_twins.TWINS,
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


def cascade() -> dict[str, Any]:
    """DeepFloyd-IF's three stages, {name: pipeline}: 8, 16 and, decoded, 32 pixels."""
    first, second, third = (tiny.build(name).pipe for name in ("deepfloyd_if", "if_stage_2", "upscale_x4"))
    first.register_modules(tokenizer=texts.t5_tokenizer(), text_encoder=texts.t5())
    # As on the hub, where the second stage brings the same text encoder along.
    second.register_modules(tokenizer=texts.t5_tokenizer(), text_encoder=texts.t5())
    third.register_modules(tokenizer=texts.clip_tokenizer(), text_encoder=texts.clip_text())
    return {"base": first, "larger": second, "x4": third}


# Cards with stages, and what their twin calls those.
CASCADES = {
    "deepfloyd_if": {"if_1_xl": "base", "if_2_l": "larger", "x4": "x4"},
    "sdxl_refined": {"base": "base", "refiner": "refiner"},
}


def refined_card(folder: Path) -> dict[str, Any]:
    """A model card of SDXL base and its refiner, both saved below `folder`: 32 pixels."""
    stages: dict[str, Any] = {}
    for name, pipe, own in (
        ("base", whole.sdxl(), {"height": 32, "width": 32, "arguments": {"denoising_end": 0.5}}),
        ("refiner", modern_twins.sdxl_refiner(), {"steps": 4, "arguments": {"denoising_start": 0.5}}),
    ):
        pipe.save_pretrained(folder / name)
        solver = {"scheduler": {"name": "euler"}, "guidance_scale": 5.0, "pipeline": type(pipe).__name__}
        stages[name] = {"folder": str(folder / name), **solver, **own}
    return {"summary": "two experts of one run", "stages": stages}


def cascade_card(folder: Path) -> dict[str, Any]:
    """A model card of the cascade, whose stages are saved below `folder`."""
    sizes = {"base": {"height": 8, "width": 8}, "larger": {"height": 16, "width": 16}, "x4": {}}
    own: dict[str, dict[str, Any]] = {
        "base": {"guidance_scale": 7.0},
        "larger": {"steps": 4, "guidance_scale": 4.0, "shared_text": True, "arguments": {"noise_level": 100}},
        "x4": {"steps": 5, "guidance_scale": 9.0, "arguments": {"noise_level": 10}},
    }
    stages = {}
    for name, pipe in cascade().items():
        pipe.save_pretrained(folder / name)
        stages[name] = {"folder": str(folder / name), **sizes[name], **own[name]}
    return {"summary": "three stages", "stages": stages}
