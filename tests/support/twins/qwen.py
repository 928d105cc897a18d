"""Qwen-Image: editing with one image or several, inpainting, ControlNet."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from torch import nn

from tests.support.twins.parts import WIDTH, Twin, common, flow, half_mask, image, pil, qwen_vae, text


def _qwen_net() -> Any:
    torch.manual_seed(0)
    return d.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip


def _qwen_text(ids: list[int]) -> dict[str, Any]:
    mask = torch.ones(len(ids), 6, dtype=torch.int64)
    return {
        **text(ids), "prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask, "true_cfg_scale": 3.0,
        "guidance_scale": None,
    }  # fmt: skip


def _qwen(cls: Any, **parts: Any) -> Any:
    return cls(scheduler=flow(), vae=qwen_vae(), text_encoder=None, tokenizer=None, transformer=_qwen_net(), **parts)


def qwen_edit() -> Twin:
    """The reference image as latents: the pipeline takes them as they are."""
    pipe = _qwen(d.QwenImageEditPipeline, processor=None)
    pipe.latent_channels = 4

    def arguments(ids: list[int]) -> dict[str, Any]:
        return {**common(ids, height=128, width=96), **_qwen_text(ids), "image": pil(64, 80)}

    # Else about one million pixels.
    sizes = (pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (80, 64, None))
    return Twin(pipe, arguments, patches=(sizes,))


def qwen_edit_plus() -> Twin:
    pipe = _qwen(d.QwenImageEditPlusPipeline, processor=None)

    def arguments(ids: list[int]) -> dict[str, Any]:
        return {**common(ids, height=128, width=96), **_qwen_text(ids), "image": [pil(64, 80), pil(48, 64)]}

    sizes = (pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda area, ratio: (80, 64))
    return Twin(pipe, arguments, (0,), (sizes,))


def qwen_img2img() -> Twin:
    pipe = _qwen(d.QwenImageImg2ImgPipeline)
    return Twin(
        pipe,
        lambda ids: {**common(ids, image=image(ids, 128, 96), strength=0.75, height=128, width=96), **_qwen_text(ids)},
    )


def qwen_inpaint() -> Twin:
    pipe = _qwen(d.QwenImageInpaintPipeline)
    return Twin(
        pipe,
        lambda ids: {
            **common(
                ids, image=image(ids, 128, 96), mask_image=half_mask(ids, 128, 96), strength=0.75, height=128, width=96
            ),
            **_qwen_text(ids),
        },
    )


def qwen_controlnet(extra: int = 0) -> Twin:
    torch.manual_seed(1)
    control = d.QwenImageControlNetModel(
        extra_condition_channels=extra,
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    for block in (*control.controlnet_blocks, control.controlnet_x_embedder):
        nn.init.normal_(block.weight, std=0.1)
    pipe = _qwen(d.QwenImageControlNetPipeline, controlnet=control)
    return Twin(
        pipe,
        lambda ids: {**common(ids, control_image=image(ids, 128, 96), height=128, width=96), **_qwen_text(ids)},
    )
