"""Other text-to-image transformers."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from torch import nn

from tests.support.cases import embed
from tests.support.twins.parts import WIDTH, Part, Twin, common, flow, image, pooled, qwen_vae, text, vae, wan_vae


def krea2() -> Twin:
    torch.manual_seed(0)
    net = d.Krea2Transformer2DModel(
        in_channels=16, num_layers=3, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=WIDTH, num_text_layers=2,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    pipe = d.Krea2Pipeline(
        scheduler=flow(), vae=qwen_vae(), text_encoder=None, tokenizer=None, transformer=net, patch_size=2
    )

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6, dtype=torch.bool)
        return common(
            ids, height=128, width=96, prompt_embeds=embed(ids, 6, 2, WIDTH, salt=1), prompt_embeds_mask=mask,
            negative_prompt_embeds=embed([99] * len(ids), 6, 2, WIDTH, salt=2), negative_prompt_embeds_mask=mask,
        )  # fmt: skip

    return Twin(pipe, arguments)


def chroma() -> Twin:
    torch.manual_seed(0)
    net = d.ChromaTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    ).eval()  # fmt: skip
    pipe = d.ChromaPipeline(scheduler=flow(), vae=vae(), text_encoder=None, tokenizer=None, transformer=net)

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, height=128, width=96, prompt_attention_mask=mask, negative_prompt_attention_mask=mask, **text(ids)
        )

    return Twin(pipe, arguments)


def lumina2() -> Twin:
    torch.manual_seed(0)
    net = d.Lumina2Transformer2DModel(
        sample_size=16, in_channels=4, hidden_size=32, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 6, 6), axes_lens=(64, 32, 32), cap_feat_dim=WIDTH,
    ).eval()  # fmt: skip
    pipe = d.Lumina2Pipeline(transformer=net, scheduler=flow(), vae=vae(), text_encoder=None, tokenizer=None)

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6, dtype=torch.int64)
        return common(
            ids, height=128, width=96, prompt_attention_mask=mask, negative_prompt_attention_mask=mask,
            cfg_trunc_ratio=0.6, **text(ids),
        )  # fmt: skip

    return Twin(pipe, arguments)


def aura_flow() -> Twin:
    torch.manual_seed(0)
    net = d.AuraFlowTransformer2DModel(
        sample_size=16, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=32, pos_embed_max_size=64,
    ).eval()  # fmt: skip
    pipe = d.AuraFlowPipeline(tokenizer=None, text_encoder=None, vae=vae(), transformer=net, scheduler=flow(False))

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return common(
            ids, height=128, width=96, prompt_attention_mask=mask, negative_prompt_attention_mask=mask, **text(ids)
        )

    return Twin(pipe, arguments)


def hidream() -> Twin:
    torch.manual_seed(0)
    net = d.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=24, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(8, 4, 4), max_resolution=(16, 16), llama_layers=[0, 1],
        force_inference_output=True,
    ).eval()  # fmt: skip
    pipe = d.HiDreamImagePipeline(
        scheduler=flow(False), vae=vae(), text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        text_encoder_3=None, tokenizer_3=None, text_encoder_4=None, tokenizer_4=None, transformer=net,
    )  # fmt: skip
    pipe.default_sample_size = 16

    def arguments(ids: list[int]) -> dict[str, Any]:
        n = len(ids)
        return common(
            ids, height=128, width=96, prompt_embeds_t5=embed(ids, 6, WIDTH, salt=1),
            negative_prompt_embeds_t5=embed([99] * n, 6, WIDTH, salt=2),
            prompt_embeds_llama3=embed(ids, 2, 6, WIDTH, salt=3).transpose(0, 1),
            negative_prompt_embeds_llama3=embed([99] * n, 2, 6, WIDTH, salt=3).transpose(0, 1), **pooled(ids),
        )  # fmt: skip

    return Twin(pipe, arguments)


def hunyuan_image() -> Twin:
    torch.manual_seed(0)
    net = d.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=WIDTH, text_embed_2_dim=WIDTH, rope_axes_dim=(8, 8),
    ).eval()  # fmt: skip
    coder = vae()
    coder.register_to_config(spatial_compression_ratio=8)
    pipe = d.HunyuanImagePipeline(
        scheduler=flow(False), vae=coder, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=net, guider=d.AdaptiveProjectedMixGuidance(enabled=True),
    )  # fmt: skip

    def arguments(ids: list[int]) -> dict[str, Any]:
        n, mask = len(ids), torch.ones(len(ids), 6)
        given = common(
            ids, height=128, width=96, prompt_embeds_mask=mask, negative_prompt_embeds_mask=mask,
            prompt_embeds_2=embed(ids, 4, WIDTH, salt=3), prompt_embeds_mask_2=torch.ones(n, 4),
            negative_prompt_embeds_2=embed([99] * n, 4, WIDTH, salt=3), negative_prompt_embeds_mask_2=torch.ones(n, 4),
            **text(ids),
        )  # fmt: skip
        given.pop("guidance_scale")
        return given

    return Twin(pipe, arguments)


def kandinsky5_t2i() -> Twin:
    torch.manual_seed(0)
    net = d.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=WIDTH, in_text_dim2=24, time_dim=16, out_visual_dim=4, patch_size=(1, 2, 2),
        model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 4, 8),
    ).eval()  # fmt: skip
    pipe = d.Kandinsky5T2IPipeline(
        transformer=net, vae=vae(), text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        scheduler=flow(False),
    )  # fmt: skip
    pipe.resolutions = [(128, 96)]

    def arguments(ids: list[int]) -> dict[str, Any]:
        n = len(ids)
        lens = torch.arange(n + 1, dtype=torch.int32) * 6
        return common(
            ids, height=128, width=96, prompt_embeds_qwen=embed(ids, 6, WIDTH, salt=1),
            prompt_embeds_clip=embed(ids, 24, salt=4), negative_prompt_embeds_qwen=embed([99] * n, 6, WIDTH, salt=2),
            negative_prompt_embeds_clip=embed([99] * n, 24, salt=4), prompt_cu_seqlens=lens,
            negative_prompt_cu_seqlens=lens,
        )  # fmt: skip

    return Twin(pipe, arguments)


def _sd3_net(channels: int = 4) -> Any:
    torch.manual_seed(0)
    return d.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=channels, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=32, pooled_projection_dim=24, out_channels=channels,
        pos_embed_max_size=16,
    ).eval()  # fmt: skip


def _sd3_parts(**parts: Any) -> dict[str, Any]:
    return {
        "transformer": _sd3_net(), "scheduler": flow(False), "vae": vae(), "text_encoder": None, "tokenizer": None,
        "text_encoder_2": None, "tokenizer_2": None, "text_encoder_3": None, "tokenizer_3": None, **parts,
    }  # fmt: skip


def sd3_img2img(channels: int = 4) -> Twin:
    pipe = d.StableDiffusion3Img2ImgPipeline(**_sd3_parts(transformer=_sd3_net(channels), vae=vae(channels)))
    return Twin(
        pipe,
        lambda ids: common(
            ids, image=image(ids, 128, 96), strength=0.75, height=128, width=96, **text(ids), **pooled(ids)
        ),
    )


def sd3_controlnet(extra: int = 0) -> Twin:
    torch.manual_seed(1)
    control = d.SD3ControlNetModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=16, extra_conditioning_channels=extra,
    ).eval()  # fmt: skip
    for block in control.controlnet_blocks:
        nn.init.normal_(block.weight, std=0.1)
    nn.init.normal_(control.pos_embed_input.proj.weight, std=0.1)
    pipe = d.StableDiffusion3ControlNetPipeline(**_sd3_parts(controlnet=control))
    return Twin(
        pipe,
        lambda ids: common(ids, control_image=image(ids, 128, 96), height=128, width=96, **text(ids), **pooled(ids)),
    )


def sana_sprint() -> Twin:
    torch.manual_seed(0)
    net = d.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=8, guidance_embeds=True, qk_norm="rms_norm_across_heads", timestep_scale=1000.0,
    ).eval()  # fmt: skip
    pipe = d.SanaSprintPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=d.SCMScheduler()
    )

    def arguments(ids: list[int]) -> dict[str, Any]:
        return common(
            ids, num_inference_steps=2, height=256, width=192, use_resolution_binning=False,
            prompt_embeds=text(ids)["prompt_embeds"], prompt_attention_mask=torch.ones(len(ids), 6),
        )  # fmt: skip

    return Twin(pipe, arguments)


def cosmos2_t2i() -> Twin:
    torch.manual_seed(0)
    net = d.CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(1.0, 4.0, 4.0),
        concat_padding_mask=True, extra_pos_embed_type=None,
    ).eval()  # fmt: skip

    class Safe(Part):
        def check_text_safety(self, _: Any) -> bool:
            return True

    pipe = d.Cosmos2TextToImagePipeline(
        text_encoder=None, tokenizer=None, transformer=net, vae=wan_vae(),
        scheduler=flow(False, use_karras_sigmas=True), safety_checker=Safe(),
    )  # fmt: skip
    pipe.scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    return Twin(pipe, lambda ids: common(ids, height=128, width=96, **text(ids)))
