"""Tiny pipelines around a transformer, one builder a family."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from tests.support.cases import Case, common, embed, encoded_text, masked_text, pooled_text
from tests.support.parts import CROSS, SCHEDULERS, vae


def pixart_transformer(sample_size: int = 16) -> PixArtTransformer2DModel:
    """A `sample_size` of 128 brings in the micro-conditioning that goes with 1024 pixels."""
    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        sample_size=sample_size, num_layers=2, patch_size=2, attention_head_dim=12, num_attention_heads=2,
        caption_channels=CROSS, in_channels=4, cross_attention_dim=24, out_channels=8, norm_num_groups=4,
        num_embeds_ada_norm=1000, norm_type="ada_norm_single",
    ).eval()  # fmt: skip


def pixart(cls: type, scheduler: str, sample_size: int = 16) -> Case:
    net = pixart_transformer(sample_size)
    pipe = cls(tokenizer=None, text_encoder=None, vae=vae(), transformer=net, scheduler=SCHEDULERS[scheduler]())
    return Case(pipe, masked_text)


def pixart_alpha(scheduler: str = "dpm++") -> Case:
    return pixart(PixArtAlphaPipeline, scheduler)


def pixart_sigma(scheduler: str = "dpm++") -> Case:
    return pixart(PixArtSigmaPipeline, scheduler)


def dit(scheduler: str = "ddim") -> Case:
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        sample_size=16, num_layers=3, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000, norm_num_groups=4,
    ).eval()  # fmt: skip
    pipe = DiTPipeline(transformer=net, vae=vae(), scheduler=SCHEDULERS[scheduler]())

    def arguments(ids: list[int]) -> dict[str, Any]:
        shared = common(ids, class_labels=[3 + i for i in ids])
        return {**shared, "output_type": "np"}  # this pipeline always decodes

    return Case(pipe, arguments)


def sd3() -> Case:
    torch.manual_seed(0)
    net = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=CROSS, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=16,
    ).eval()  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        transformer=net, vae=vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip

    def arguments(ids: list[int]) -> dict[str, Any]:
        return common(ids, height=32, width=32, **encoded_text(ids), **pooled_text(ids))

    return Case(pipe, arguments)


def sana() -> Case:
    torch.manual_seed(0)
    net = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=CROSS,
        sample_size=16, patch_size=1,
    ).eval()  # fmt: skip
    autoencoder = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "ResBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
    ).eval()  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = SanaPipeline(tokenizer=None, text_encoder=None, vae=autoencoder, transformer=net, scheduler=scheduler)
    return Case(pipe, masked_text)


def hunyuan() -> Case:
    torch.manual_seed(0)
    net = HunyuanDiT2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        cross_attention_dim=CROSS, cross_attention_dim_t5=24, pooled_projection_dim=16, hidden_size=16,
        text_len=6, text_len_t5=6, activation_fn="gelu-approximate", norm_type="layer_norm",
    ).eval()  # fmt: skip
    pipe = HunyuanDiTPipeline(
        vae=vae(levels=4), text_encoder=None, tokenizer=None, transformer=net, scheduler=SCHEDULERS["ddim"](),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, text_encoder_2=None,
        tokenizer_2=None,
    )  # fmt: skip

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, height=128, width=128, **encoded_text(ids), use_resolution_binning=False,
            prompt_embeds_2=embed(ids, 6, 24, salt=5), negative_prompt_embeds_2=embed([99] * len(ids), 6, 24, salt=6),
            prompt_attention_mask=mask, negative_prompt_attention_mask=mask, prompt_attention_mask_2=mask,
            negative_prompt_attention_mask_2=mask,
        )  # fmt: skip

    return Case(pipe, arguments)
