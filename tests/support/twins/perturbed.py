"""Perturbed attention guidance on transformers, around the networks of other tiny pipelines."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers as d

from tests.support import transformers
from tests.support.cases import Case
from tests.support.twins import images
from tests.support.twins.parts import STEPS, Twin


def _of(case: Case, cls: Any, block: str) -> Twin:
    """`cls` around a case's parts."""
    names = inspect.signature(cls.__init__).parameters
    parts = {name: part for name, part in case.pipe.components.items() if name in names}
    if "requires_safety_checker" in names:
        parts["requires_safety_checker"] = False

    def arguments(ids: list[int]) -> dict[str, Any]:
        return {**case.arguments(ids), "num_inference_steps": STEPS, "pag_scale": 2.0}

    return Twin(cls(**parts, pag_applied_layers=[block]), arguments)


def sd3_pag() -> Twin:
    return _of(transformers.sd3(), d.StableDiffusion3PAGPipeline, "blocks.1")


def sd3_pag_img2img() -> Twin:
    return _of(images.sd3_img2img(), d.StableDiffusion3PAGImg2ImgPipeline, "blocks.1")


def pixart_sigma_pag() -> Twin:
    return _of(transformers.pixart_sigma(), d.PixArtSigmaPAGPipeline, "blocks.1")


def sana_pag() -> Twin:
    case = transformers.sana()
    whole = case.arguments
    case.arguments = lambda ids: {**whole(ids), "height": 64, "width": 64}
    return _of(case, d.SanaPAGPipeline, "transformer_blocks.1")


def hunyuan_dit_pag() -> Twin:
    return _of(transformers.hunyuan(), d.HunyuanDiTPAGPipeline, "blocks.1")
