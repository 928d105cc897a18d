"""Tiny pipelines whose guidance branches come in separate network calls, and whose latents may be packed."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from tests.support.cases import Case, common, embed, encoded_text
from tests.support.parts import CROSS


def _flow() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def flux(true_cfg: bool = False) -> Case:
    """Guidance embedded in the network, or true guidance in a second call."""
    torch.manual_seed(0)
    net = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=CROSS, pooled_projection_dim=24, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    pipe = FluxPipeline(
        scheduler=_flow(), vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=net,
    )  # fmt: skip

    def arguments(ids: list[int]) -> dict[str, Any]:
        text = encoded_text(ids)
        pooled = {"pooled_prompt_embeds": embed(ids, 24, salt=4)}
        if not true_cfg:
            return common(ids, height=128, width=96, prompt_embeds=text["prompt_embeds"], **pooled)
        pooled["negative_pooled_prompt_embeds"] = embed([99] * len(ids), 24, salt=4)
        return common(ids, height=128, width=96, true_cfg_scale=3.0, **text, **pooled)

    return Case(pipe, arguments)


def qwen_image() -> Case:
    torch.manual_seed(0)
    net = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=CROSS, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    pipe = QwenImagePipeline(scheduler=_flow(), vae=None, text_encoder=None, tokenizer=None, transformer=net)

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6, dtype=torch.int64)
        masks = {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask}
        given = common(ids, height=128, width=96, true_cfg_scale=3.0, **masks, **encoded_text(ids))
        return {**given, "guidance_scale": None}

    return Case(pipe, arguments)


def cogview4() -> Case:
    torch.manual_seed(0)
    net = CogView4Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=CROSS, time_embed_dim=16, condition_dim=8, pos_embed_max_size=16, sample_size=16,
        rope_axes_dim=(16, 16),
    ).eval()  # fmt: skip
    pipe = CogView4Pipeline(tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=_flow())
    return Case(pipe, lambda ids: common(ids, height=128, width=96, **encoded_text(ids)))


def wan() -> Case:
    torch.manual_seed(0)
    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=CROSS, freq_dim=16,
        ffn_dim=32, num_layers=3, rope_max_seq_len=32,
    ).eval()  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=scheduler)
    return Case(pipe, lambda ids: common(ids, height=128, width=96, num_frames=5, **encoded_text(ids)))
