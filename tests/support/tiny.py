"""Tiny pipelines with random weights, one builder a family: structure without size, seconds without a network.

Prompt embeddings are passed in and text encoders left out, so no tokenizer is needed. Every builder returns a
`Case`: the pipeline and a function that makes the arguments of one call.
"""

from __future__ import annotations

from collections.abc import Callable

from diffusers import PixArtAlphaPipeline

from tests.support.cases import STEPS, Case
from tests.support.parts import BETAS, CROSS, DETERMINISTIC, SCHEDULERS, unet, vae
from tests.support.transformers import dit, hunyuan, pixart, pixart_alpha, pixart_sigma, sana, sd3
from tests.support.unets import (
    animatediff,
    controlnet,
    deepfloyd_if,
    if_stage_2,
    img2img,
    inpaint,
    lcm,
    sd,
    sdxl,
    sdxl_controlnet,
    sdxl_img2img,
    text_to_video,
    upscale_x4,
)

__all__ = [
    "BETAS",
    "CASES",
    "CROSS",
    "DETERMINISTIC",
    "FAMILY_CASES",
    "SCHEDULERS",
    "STEPS",
    "VARIANTS",
    "Case",
    "build",
    "sd",
    "unet",
    "vae",
]

FAMILY_CASES: dict[str, Callable[[], Case]] = {
    "sd": sd,
    "img2img": img2img,
    "inpaint4": inpaint,
    "inpaint9": lambda: inpaint(9),
    "controlnet": controlnet,
    "sdxl": sdxl,
    "lcm": lcm,
    "pixart_alpha": pixart_alpha,
    "pixart_alpha_sized": lambda: pixart(PixArtAlphaPipeline, "dpm++", 128),
    "pixart_sigma": pixart_sigma,
    "dit": dit,
    "deepfloyd_if": deepfloyd_if,
    "if_stage_2": if_stage_2,
    "upscale_x4": upscale_x4,
    "text_to_video": text_to_video,
    "animatediff": animatediff,
    "sd3": sd3,
    "sana": sana,
    "hunyuan": hunyuan,
}
# Other rows of the table and other ways to call; the driver is tested on them, not every method.
VARIANTS: dict[str, Callable[[], Case]] = {
    "controlnet_guess": lambda: controlnet(guess_mode=True),
    "controlnets": lambda: controlnet(count=2),
    "sdxl_img2img": sdxl_img2img,
    "sdxl_controlnet": sdxl_controlnet,
}
CASES: dict[str, Callable[[], Case]] = {
    **FAMILY_CASES,
    **{f"sd_{name}": (lambda name=name: sd(name)) for name in SCHEDULERS},
}


def build(name: str) -> Case:
    """A fresh pipeline, quiet."""
    case = (VARIANTS | CASES)[name]()
    case.pipe.set_progress_bar_config(disable=True)
    return case
