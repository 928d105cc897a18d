"""Pipelines around a U-Net that people ran in 2026: SD and SDXL."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

from tests.support.cases import embed
from tests.support.twins.parts import WIDTH, Twin, common, half_mask, image, pooled, text, vae


def unet(channels: int = 4, xl: bool = True, **extra: Any) -> Any:
    torch.manual_seed(0)
    added = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8, "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
    } if xl else {}  # fmt: skip
    return d.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=channels, out_channels=4,
        attention_head_dim=(2, 4), cross_attention_dim=WIDTH, norm_num_groups=4,
        **{
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **added, **extra,
        },
    ).eval()  # fmt: skip


def euler() -> Any:
    return d.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def xl_parts(**parts: Any) -> dict[str, Any]:
    return {
        "vae": vae(), "text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None,
        "unet": unet(), "scheduler": euler(), **parts,
    }  # fmt: skip


def sdxl_inpaint(channels: int = 4) -> Twin:
    pipe = d.StableDiffusionXLInpaintPipeline(**xl_parts(unet=unet(channels)), requires_aesthetics_score=False)
    return Twin(
        pipe,
        lambda ids: common(
            ids,
            image=image(ids),
            mask_image=half_mask(ids),
            strength=0.75,
            height=64,
            width=48,
            **text(ids),
            **pooled(ids),
        ),
    )


def sdxl_inpaint_9() -> Twin:
    return sdxl_inpaint(9)


def sdxl_img2img_refiner() -> Twin:
    """The refiner: starts where the base stopped (`denoising_start`)."""
    pipe = d.StableDiffusionXLImg2ImgPipeline(**xl_parts(), requires_aesthetics_score=False)
    return Twin(
        pipe,
        lambda ids: common(
            ids, image=image(ids), denoising_start=0.5, num_inference_steps=8, **text(ids), **pooled(ids)
        ),
    )


def sdxl_turbo() -> Twin:
    pipe = d.StableDiffusionXLPipeline(
        **xl_parts(scheduler=d.EulerAncestralDiscreteScheduler(timestep_spacing="trailing"))
    )
    return Twin(
        pipe,
        lambda ids: common(ids, guidance_scale=0.0, height=64, width=48, **text(ids), **pooled(ids)),
    )


def sdxl_pag() -> Twin:
    pipe = d.StableDiffusionXLPAGPipeline(**xl_parts(), pag_applied_layers=["mid"])
    return Twin(
        pipe,
        lambda ids: common(ids, pag_scale=2.0, height=64, width=48, **text(ids), **pooled(ids)),
    )


def sdxl_t2i_adapter() -> Twin:
    torch.manual_seed(0)
    adapter = d.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter"
    )
    net = unet(
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    pipe = d.StableDiffusionXLAdapterPipeline(**xl_parts(adapter=adapter.eval(), unet=net))
    return Twin(pipe, lambda ids: common(ids, image=image(ids), height=64, width=48, **text(ids), **pooled(ids)))


def sd_instruct_pix2pix() -> Twin:
    pipe = d.StableDiffusionInstructPix2PixPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=unet(8, xl=False), scheduler=euler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return Twin(
        pipe,
        lambda ids: common(ids, image=image(ids), image_guidance_scale=1.5, **text(ids)),
    )


def _with_image_prompts(net: Any) -> Any:
    processors: dict[str, Any] = {}
    for name in net.attn_processors:
        if name.endswith("attn1.processor"):
            processors[name] = AttnProcessor2_0()
        else:
            processors[name] = IPAdapterAttnProcessor2_0(hidden_size=16, cross_attention_dim=WIDTH, num_tokens=(2,))
    net.set_attn_processor(processors)
    net.encoder_hid_proj = MultiIPAdapterImageProjection(
        [ImageProjection(image_embed_dim=12, cross_attention_dim=WIDTH, num_image_text_embeds=2)]
    )
    net.config.encoder_hid_dim_type = "ip_image_proj"
    return net.eval()


def _image_prompt() -> dict[str, Any]:
    # One image: the pipeline repeats it.
    return {"ip_adapter_image_embeds": [torch.cat([torch.zeros(1, 1, 12), embed([3], 1, 12, salt=9)])]}


def sd_ip_adapter() -> Twin:
    """Image prompts: attention processors with keys of their own, image embeddings in `added_cond_kwargs`."""
    pipe = d.StableDiffusionPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=_with_image_prompts(unet(xl=False)), scheduler=euler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return Twin(pipe, lambda ids: common(ids, height=64, width=48, **_image_prompt(), **text(ids)))


def sdxl_ip_adapter() -> Twin:
    pipe = d.StableDiffusionXLPipeline(**xl_parts(unet=_with_image_prompts(unet())), add_watermarker=False)
    return Twin(pipe, lambda ids: common(ids, height=64, width=48, **_image_prompt(), **text(ids), **pooled(ids)))
