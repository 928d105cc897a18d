"""Tiny pipelines with random weights, one builder a family: structure without size, seconds without a network.

Prompt embeddings are passed in and text encoders left out, so no tokenizer is needed. Every builder returns a
`Case`: the pipeline and a function that makes the arguments of one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from diffusers import PixArtAlphaPipeline

from tests.support.cases import STEPS, Case
from tests.support.modern import cogview4, flux, qwen_image, wan
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
    sdxl_inpaint,
    text_to_video,
    upscale_x4,
)

__all__ = [
    "BETAS",
    "CASES",
    "CROSS",
    "DEEP",
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

FAMILY_CASES: dict[str, Callable[..., Case]] = {
    "sd": sd,
    "img2img": img2img,
    "inpaint4": inpaint,
    "inpaint9": partial(inpaint, 9),
    "controlnet": controlnet,
    "sdxl": sdxl,
    "lcm": lcm,
    "pixart_alpha": pixart_alpha,
    "pixart_alpha_sized": partial(pixart, PixArtAlphaPipeline, "dpm++", 128),
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
    "flux": flux,
    "flux_cfg": partial(flux, true_cfg=True),
    "qwen_image": qwen_image,
    "cogview4": cogview4,
    "wan": wan,
}
# Other rows of the table and other ways to call; the driver is tested on them, not every method.
VARIANTS: dict[str, Callable[..., Case]] = {
    "controlnet_guess": partial(controlnet, guess_mode=True),
    "controlnets": partial(controlnet, count=2),
    "sdxl_img2img": sdxl_img2img,
    "sdxl_inpaint4": sdxl_inpaint,
    "sdxl_inpaint9": partial(sdxl_inpaint, 9),
    "sdxl_controlnet": sdxl_controlnet,
}
# With two layers a block, as in the published networks.
DEEP: dict[str, Callable[..., Case]] = {
    "sd_deep": partial(sd, layers=2),
    "sdxl_deep": partial(sdxl, layers=2),
    **{f"sd_deep_{name}": partial(sd, name, layers=2) for name in ("dpm++", "euler", "pndm")},
}
CASES: dict[str, Callable[..., Case]] = {
    **FAMILY_CASES,
    **{f"sd_{name}": partial(sd, name) for name in SCHEDULERS},
}

# Against 32, 3 and 8: what must hold for every method on every family is asked a thousand times.
SMALL, SMALLEST = {"pixels": 16}, {"pixels": 16, "levels": 2}
FEW_STEPS = 6


def build(name: str, small: bool = False, smallest: bool = False) -> Case:
    """A fresh pipeline, quiet.

    A small one draws 16 pixels (8 x 8 latents); the smallest does so in 6 steps, and its U-Net has 2 levels.
    """
    builder = (VARIANTS | DEEP | CASES)[name]
    known = inspect.signature(builder).parameters
    changes = SMALLEST if smallest else SMALL if small else {}
    case = builder(**{key: value for key, value in changes.items() if key in known})
    if smallest:
        whole = case.arguments
        case.arguments = lambda ids: {**whole(ids), "num_inference_steps": FEW_STEPS}
    case.pipe.set_progress_bar_config(disable=True)
    return case
