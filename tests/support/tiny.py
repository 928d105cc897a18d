"""Tiny pipelines with random weights, one builder a family: structure without size, seconds without a network.

Prompt embeddings are passed in and text encoders left out, so no tokenizer is needed. Every builder returns a
`Case`: the pipeline and a function that makes the arguments of one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderDC,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    MotionAdapter,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)

STEPS = 8
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CROSS = 32

SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: DDIMScheduler(**BETAS, clip_sample=False),
    "dpm++": lambda: DPMSolverMultistepScheduler(**BETAS),
    "dpm++_karras": lambda: DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**BETAS),
    "euler_ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**BETAS),
    "pndm": lambda: diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**BETAS),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**BETAS),
    "lcm": lambda: LCMScheduler(**BETAS),
    "ddpm": lambda: DDPMScheduler(**BETAS, clip_sample=False),
    "dpm++_sde": lambda: DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++"),
    "ddim_v": lambda: DDIMScheduler(**BETAS, clip_sample=False, prediction_type="v_prediction"),
    "euler_v": lambda: diffusers.EulerDiscreteScheduler(**BETAS, prediction_type="v_prediction"),
}
DETERMINISTIC = ("ddim", "dpm++", "euler", "pndm", "unipc", "heun", "ddim_v", "euler_v")


@dataclass
class Case:
    """A pipeline with the arguments of a call for samples `ids`; row i depends on ids[i] alone."""

    pipe: Any
    arguments: Callable[[list[int]], dict[str, Any]]

    def call(self, run: Callable[..., Any], ids: list[int] | None = None, **changes: Any) -> torch.Tensor:
        """Call `run` (the pipeline or a driver over it); returns latents or images, first dimension samples."""
        out = run(**{**self.arguments(ids or [0, 1]), "return_dict": False, **changes})[0]
        return torch.as_tensor(out)


def _embed(ids: list[int], *shape: int, salt: int = 0) -> torch.Tensor:
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 * salt + i)) for i in ids])


def _generators(ids: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(7 + i) for i in ids]


def _common(ids: list[int], **extra: Any) -> dict[str, Any]:
    return {
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "generator": _generators(ids),
        "output_type": "latent",
        **extra,
    }


def _text(ids: list[int], tokens: int = 6, width: int = CROSS) -> dict[str, Any]:
    return {
        "prompt_embeds": _embed(ids, tokens, width, salt=1),
        "negative_prompt_embeds": _embed([99] * len(ids), tokens, width, salt=2),
    }


def unet(layers: int = 2, **changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": layers,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CROSS,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**options, **changes}).eval()


def vae(levels: int = 2) -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    ).eval()


def _sd_parts(scheduler: str) -> dict[str, Any]:
    return {
        "vae": vae(),
        "text_encoder": None,
        "tokenizer": None,
        "unet": unet(),
        "scheduler": SCHEDULERS[scheduler](),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd(scheduler: str = "ddim") -> Case:
    pipe = StableDiffusionPipeline(**_sd_parts(scheduler))
    return Case(pipe, lambda ids: _common(ids, height=32, width=32, **_text(ids)))


def _pictures(ids: list[int]) -> torch.Tensor:
    return _embed(ids, 3, 32, 32, salt=3).clamp(0, 1)


def img2img(scheduler: str = "ddim") -> Case:
    pipe = StableDiffusionImg2ImgPipeline(**_sd_parts(scheduler))
    # The VAE's own sampling of the image latents must not share the run's generators with another batch layout.
    return Case(pipe, lambda ids: _common(ids, image=_pictures(ids), strength=0.75, **_text(ids)))


def inpaint(channels: int = 4, scheduler: str = "ddim") -> Case:
    pipe = StableDiffusionInpaintPipeline(**{**_sd_parts(scheduler), "unet": unet(in_channels=channels)})
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    return Case(
        pipe,
        lambda ids: _common(
            ids, image=_pictures(ids), mask_image=mask.repeat(len(ids), 1, 1, 1), height=32, width=32, **_text(ids)
        ),
    )


def controlnet(scheduler: str = "ddim") -> Case:
    parts = _sd_parts(scheduler)
    torch.manual_seed(2)
    control = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 8))
    for name, parameter in control.named_parameters():
        if "controlnet_" in name:  # zero at initialisation, which would hide the residuals
            torch.nn.init.normal_(parameter, std=0.1)
    pipe = StableDiffusionControlNetPipeline(**parts, controlnet=control.eval())
    return Case(pipe, lambda ids: _common(ids, image=_pictures(ids), height=32, width=32, **_text(ids)))


def sdxl(scheduler: str = "euler") -> Case:
    net = unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 24,
        transformer_layers_per_block=(1, 2, 1),
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae(), text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=net,
        scheduler=SCHEDULERS[scheduler](), force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    pipe.text_encoder_2 = None

    def arguments(ids: list[int]) -> dict[str, Any]:
        pooled = {
            "pooled_prompt_embeds": _embed(ids, 24, salt=4),
            "negative_pooled_prompt_embeds": _embed([99] * len(ids), 24, salt=4),
        }
        return _common(ids, height=32, width=32, **_text(ids), **pooled)

    return Case(pipe, arguments)


def lcm() -> Case:
    pipe = LatentConsistencyModelPipeline(**{**_sd_parts("lcm"), "unet": unet(time_cond_proj_dim=16)})

    def arguments(ids: list[int]) -> dict[str, Any]:
        text = _text(ids)
        text.pop("negative_prompt_embeds")
        return {**_common(ids, height=32, width=32, **text), "num_inference_steps": 6, "original_inference_steps": 50}

    return Case(pipe, arguments)


def _pixart(cls: type, scheduler: str, sample_size: int = 16) -> Case:
    torch.manual_seed(0)
    net = PixArtTransformer2DModel(
        sample_size=sample_size, num_layers=2, patch_size=2, attention_head_dim=12, num_attention_heads=2,
        caption_channels=CROSS, in_channels=4, cross_attention_dim=24, out_channels=8, norm_num_groups=4,
        num_embeds_ada_norm=1000, norm_type="ada_norm_single",
    ).eval()  # fmt: skip
    pipe = cls(tokenizer=None, text_encoder=None, vae=vae(), transformer=net, scheduler=SCHEDULERS[scheduler]())

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return _common(
            ids, height=32, width=32, prompt_attention_mask=mask, negative_prompt=None,
            negative_prompt_attention_mask=mask, use_resolution_binning=False, **_text(ids),
        )  # fmt: skip

    return Case(pipe, arguments)


def pixart_alpha(scheduler: str = "dpm++") -> Case:
    return _pixart(PixArtAlphaPipeline, scheduler)


def pixart_sigma(scheduler: str = "dpm++") -> Case:
    return _pixart(PixArtSigmaPipeline, scheduler)


def dit(scheduler: str = "ddim") -> Case:
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        sample_size=16, num_layers=3, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000, norm_num_groups=4,
    ).eval()  # fmt: skip
    pipe = DiTPipeline(transformer=net, vae=vae(), scheduler=SCHEDULERS[scheduler]())

    def arguments(ids: list[int]) -> dict[str, Any]:
        shared = _common(ids, class_labels=[3 + i for i in ids])
        return {**shared, "output_type": "np"}  # this pipeline always decodes

    return Case(pipe, arguments)


def deepfloyd_if() -> Case:
    net = unet(
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        only_cross_attention=False,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=CROSS,
        cross_attention_norm="group_norm",
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.0, variance_type="learned_range",
    )  # fmt: skip
    pipe = IFPipeline(
        tokenizer=None, text_encoder=None, unet=net, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    return Case(pipe, lambda ids: {**_common(ids, height=16, width=16, **_text(ids)), "output_type": "pt"})


def text_to_video() -> Case:
    torch.manual_seed(0)
    net = UNet3DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=CROSS, attention_head_dim=4, norm_num_groups=4,
    ).eval()  # fmt: skip
    for name, parameter in net.named_parameters():
        if ".conv4." in name:  # temporal layers start at zero
            torch.nn.init.normal_(parameter, std=0.1)
    pipe = TextToVideoSDPipeline(vae=vae(), text_encoder=None, tokenizer=None, unet=net, scheduler=SCHEDULERS["ddim"]())
    return Case(pipe, lambda ids: _common(ids, height=32, width=32, num_frames=3, **_text(ids)))


def animatediff() -> Case:
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=(8, 16, 16),
        motion_layers_per_block=2,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    pipe = AnimateDiffPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=unet(), motion_adapter=adapter,
        scheduler=SCHEDULERS["ddim"](),
    )  # fmt: skip
    return Case(pipe, lambda ids: _common(ids, height=32, width=32, num_frames=3, **_text(ids)))


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
        pooled = {
            "pooled_prompt_embeds": _embed(ids, 24, salt=4),
            "negative_pooled_prompt_embeds": _embed([99] * len(ids), 24, salt=4),
        }
        return _common(ids, height=32, width=32, **_text(ids), **pooled)

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

    def arguments(ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(len(ids), 6)
        return _common(
            ids, height=32, width=32, prompt_attention_mask=mask, negative_prompt=None,
            negative_prompt_attention_mask=mask, use_resolution_binning=False, **_text(ids),
        )  # fmt: skip

    return Case(pipe, arguments)


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
        return _common(
            ids, height=128, width=128, **_text(ids), use_resolution_binning=False,
            prompt_embeds_2=_embed(ids, 6, 24, salt=5), negative_prompt_embeds_2=_embed([99] * len(ids), 6, 24, salt=6),
            prompt_attention_mask=mask, negative_prompt_attention_mask=mask, prompt_attention_mask_2=mask,
            negative_prompt_attention_mask_2=mask,
        )  # fmt: skip

    return Case(pipe, arguments)


FAMILY_CASES: dict[str, Callable[[], Case]] = {
    "sd": sd,
    "img2img": img2img,
    "inpaint4": inpaint,
    "inpaint9": lambda: inpaint(9),
    "controlnet": controlnet,
    "sdxl": sdxl,
    "lcm": lcm,
    "pixart_alpha": pixart_alpha,
    "pixart_alpha_sized": lambda: _pixart(PixArtAlphaPipeline, "dpm++", 128),
    "pixart_sigma": pixart_sigma,
    "dit": dit,
    "deepfloyd_if": deepfloyd_if,
    "text_to_video": text_to_video,
    "animatediff": animatediff,
    "sd3": sd3,
    "sana": sana,
    "hunyuan": hunyuan,
}
CASES: dict[str, Callable[[], Case]] = {
    **FAMILY_CASES,
    **{f"sd_{name}": (lambda name=name: sd(name)) for name in SCHEDULERS},
}


def build(name: str) -> Case:
    """A fresh pipeline, quiet."""
    case = CASES[name]()
    case.pipe.set_progress_bar_config(disable=True)
    return case
