"""Tiny twins, from prompt to image or video, of models of 2026; their networks are those of `tests.support.twins`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as d
import torch

from tests.support import language, texts, whole
from tests.support.parts import SDXL, unet
from tests.support.twins import flux, images, qwen, video, z_image
from tests.support.twins.parts import Twin, flow, qwen_vae, wan_vae

WIDTH = language.WIDTH


def _given_text(twin: Twin, **parts: Any) -> Any:
    """The pipeline of a twin, whose text encoders were left out, with them."""
    twin.pipe.register_modules(**parts)
    return twin.pipe


def _clip(width: int = 24, projection: int | None = None) -> dict[str, Any]:
    return {"text_encoder": texts.clip_text(width, projection), "tokenizer": texts.clip_tokenizer()}


def _t5(place: str = "") -> dict[str, Any]:
    return {f"text_encoder{place}": texts.t5(), f"tokenizer{place}": texts.t5_tokenizer()}


def _flux(twin: Twin) -> Any:
    return _given_text(twin, **_clip(), **_t5("_2"))


def flux1() -> Any:
    parts = _flux(flux.flux_img2img()).components
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    return d.FluxPipeline(**{name: parts[name] for name in names})


def flux1_schnell() -> Any:
    pipe = flux1()
    pipe.transformer = d.FluxTransformer2DModel.from_config({**pipe.transformer.config, "guidance_embeds": False})
    return pipe


def flux1_kontext() -> Any:
    return _flux(flux.flux_kontext())


def _flux2(cls: type, guided: bool, **more: Any) -> Any:
    """Three layers of a text encoder of width 8 are its text."""
    torch.manual_seed(0)
    net = d.Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * 8, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guided,
    ).eval()  # fmt: skip
    coder = d.AutoencoderKLFlux2(
        latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=1, sample_size=32
    ).eval()
    return cls(scheduler=flow(), vae=coder, transformer=net, **more)


def flux2_klein() -> Any:
    words = {"text_encoder": language.qwen3(28, 8), "tokenizer": language.tokenizer()}
    return _flux2(d.Flux2KleinPipeline, False, is_distilled=True, **words)


def flux2_dev() -> Any:
    words = {"text_encoder": language.mistral3(), "tokenizer": language.mistral3_processor()}
    return _flux2(d.Flux2Pipeline, True, **words)


def z_image_model() -> Any:
    return _given_text(z_image.z_image(), text_encoder=language.qwen3().model, tokenizer=language.tokenizer())


def qwen_image() -> Any:
    parts = qwen.qwen_img2img().pipe.components
    return d.QwenImagePipeline(
        scheduler=parts["scheduler"], vae=qwen_vae(), transformer=parts["transformer"],
        text_encoder=language.qwen25_vl(), tokenizer=language.tokenizer(),
    )  # fmt: skip


def qwen_image_edit() -> Any:
    return _given_text(
        qwen.qwen_edit_plus(), text_encoder=language.qwen25_vl(), tokenizer=language.tokenizer(),
        processor=language.qwen25_vl_processor(),
    )  # fmt: skip


def sd35() -> Any:
    parts = images.sd3_img2img().pipe.components
    second = {"text_encoder_2": texts.clip_text(16, 12), "tokenizer_2": texts.clip_tokenizer()}
    own = {name: parts[name] for name in ("transformer", "scheduler", "vae")}
    return d.StableDiffusion3Pipeline(**own, **_clip(16, 12), **second, **_t5("_3"))


def sana() -> Any:
    torch.manual_seed(0)
    net = d.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=WIDTH,
        sample_size=8, patch_size=1,
    ).eval()  # fmt: skip
    coder = d.AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(4, 8), decoder_block_out_channels=(4, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    ).eval()  # fmt: skip
    return d.SanaPipeline(
        tokenizer=language.tokenizer(), text_encoder=language.gemma2(), vae=coder, transformer=net,
        scheduler=d.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )  # fmt: skip


def _umt5() -> dict[str, Any]:
    return {"text_encoder": language.umt5(), "tokenizer": texts.t5_tokenizer(), "vae": wan_vae()}


def wan21() -> Any:
    parts = video.wan().pipe.components
    return d.WanPipeline(transformer=parts["transformer"], scheduler=parts["scheduler"], **_umt5())


def wan22() -> Any:
    parts = video.wan22().pipe.components
    nets = {name: parts[name] for name in ("transformer", "transformer_2", "scheduler")}
    return d.WanPipeline(**nets, boundary_ratio=0.875, **_umt5())


def ltx() -> Any:
    parts = video.ltx_i2v().pipe.components
    return d.LTXPipeline(scheduler=parts["scheduler"], vae=parts["vae"], transformer=parts["transformer"], **_t5())


def hunyuan() -> Any:
    parts = video.hunyuan_video().pipe.components
    torch.manual_seed(0)
    coder = d.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=1
    ).eval()
    return d.HunyuanVideoPipeline(
        text_encoder=language.llama(), tokenizer=language.tokenizer(), transformer=parts["transformer"], vae=coder,
        scheduler=parts["scheduler"], text_encoder_2=texts.clip_text(24, length=77), tokenizer_2=texts.clip_tokenizer(),
    )  # fmt: skip


def _sdxl(cls: type, network: Any, **more: Any) -> Any:
    parts = whole.sdxl().components
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    return cls(unet=network, add_watermarker=False, **{name: parts[name] for name in names}, **more)


def sdxl_inpaint() -> Any:
    return _sdxl(d.StableDiffusionXLInpaintPipeline, unet(layers=1, in_channels=9, **SDXL))


def sdxl_refiner() -> Any:
    """The second text encoder alone, and an aesthetic score among its numbers."""
    pipe = _sdxl(
        d.StableDiffusionXLImg2ImgPipeline,
        unet(layers=1, **{**SDXL, "projection_class_embeddings_input_dim": 8 * 5 + 24, "cross_attention_dim": 16}),
        requires_aesthetics_score=True,
    )
    pipe.register_modules(text_encoder=None, tokenizer=None)
    return pipe


class SDXLLora:
    """What the authors of SDXL Lightning publish: a file of low-rank changes of the U-Net."""

    def save_pretrained(self, folder: Path) -> None:
        from peft import LoraConfig
        from peft.utils import get_peft_model_state_dict

        network = whole.sdxl().unet
        torch.manual_seed(3)
        network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
        d.StableDiffusionXLPipeline.save_lora_weights(
            folder, unet_lora_layers=get_peft_model_state_dict(network),
            weight_name="sdxl_lightning_4step_lora.safetensors",
        )  # fmt: skip


# Card: pipeline, and the part that the card brings along.
TWINS: dict[str, tuple[Callable[[], Any], tuple[str, Callable[[], Any]] | None]] = {
    "sdxl_turbo": (whole.sdxl, None),
    "sdxl_lightning": (whole.sdxl, ("lora", SDXLLora)),
    "sdxl_inpaint": (sdxl_inpaint, None),
    "z_image": (z_image_model, None),
    "z_image_turbo": (z_image_model, None),
    "flux1_dev": (flux1, None),
    "flux1_schnell": (flux1_schnell, None),
    "flux1_kontext": (flux1_kontext, None),
    "flux2_klein": (flux2_klein, None),
    "flux2_dev": (flux2_dev, None),
    "qwen_image": (qwen_image, None),
    "qwen_image_edit_2509": (qwen_image_edit, None),
    "sd35_medium": (sd35, None),
    "sd35_large": (sd35, None),
    "sana_1600m": (sana, None),
    "wan21_t2v_1_3b": (wan21, None),
    "wan22_t2v_a14b": (wan22, None),
    "ltx_video": (ltx, None),
    "hunyuan_video": (hunyuan, None),
}
