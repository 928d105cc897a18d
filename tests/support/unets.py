"""Tiny pipelines around a U-Net, one builder a family."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    ControlNetModel,
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    LatentConsistencyModelPipeline,
    MotionAdapter,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)

from tests.support.cases import Case, common, embed, encoded_text, pooled_text
from tests.support.parts import CROSS, SCHEDULERS, SDXL, unet, vae

# Latents are half as wide as images. Videos, of three frames, are smaller by themselves.
PIXELS = 32


def _sd_parts(scheduler: str, layers: int = 1, levels: int = 3) -> dict[str, Any]:
    return {
        "vae": vae(),
        "text_encoder": None,
        "tokenizer": None,
        "unet": unet(layers, levels),
        "scheduler": SCHEDULERS[scheduler](),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd(scheduler: str = "ddim", pixels: int = PIXELS, layers: int = 1, levels: int = 3) -> Case:
    pipe = StableDiffusionPipeline(**_sd_parts(scheduler, layers, levels))
    return Case(pipe, lambda ids: common(ids, height=pixels, width=pixels, **encoded_text(ids)))


def _images(ids: list[int], pixels: int) -> torch.Tensor:
    return embed(ids, 3, pixels, pixels, salt=3).clamp(0, 1)


def img2img(scheduler: str = "ddim", pixels: int = PIXELS, levels: int = 3) -> Case:
    pipe = StableDiffusionImg2ImgPipeline(**_sd_parts(scheduler, levels=levels))
    # The VAE's own sampling of the image latents must not share the run's generators with another batch layout.
    return Case(pipe, lambda ids: common(ids, image=_images(ids, pixels), strength=0.75, **encoded_text(ids)))


def inpaint(channels: int = 4, scheduler: str = "ddim", pixels: int = PIXELS, levels: int = 3) -> Case:
    net = unet(levels=levels, in_channels=channels)
    pipe = StableDiffusionInpaintPipeline(**{**_sd_parts(scheduler), "unet": net})
    mask = torch.zeros(1, 1, pixels, pixels)
    hole = slice(pixels // 4, -pixels // 4)
    mask[..., hole, hole] = 1
    return Case(
        pipe,
        lambda ids: common(
            ids,
            image=_images(ids, pixels),
            mask_image=mask.repeat(len(ids), 1, 1, 1),
            height=pixels,
            width=pixels,
            **encoded_text(ids),
        ),
    )


def _control(net: UNet2DConditionModel, seed: int = 2) -> ControlNetModel:
    torch.manual_seed(seed)
    control = ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(8, 8))
    for name, parameter in control.named_parameters():
        if "controlnet_" in name:  # zero at initialisation, which would hide the residuals
            torch.nn.init.normal_(parameter, std=0.1)
    return control.eval()


def controlnet(
    scheduler: str = "ddim", count: int = 1, guess_mode: bool = False, pixels: int = PIXELS, levels: int = 3
) -> Case:
    """`count` ControlNets at once; in guess mode they see the conditional half alone."""
    parts = _sd_parts(scheduler, levels=levels)
    controls = [_control(parts["unet"], seed=2 + i) for i in range(count)]
    pipe = StableDiffusionControlNetPipeline(**parts, controlnet=controls if count > 1 else controls[0])

    def arguments(ids: list[int]) -> dict[str, Any]:
        image = _images(ids, pixels)
        images = [image] * count if count > 1 else image
        shared = common(ids, image=images, height=pixels, width=pixels, **encoded_text(ids))
        return {**shared, "guess_mode": guess_mode}

    return Case(pipe, arguments)


def _sdxl_parts(scheduler: str, layers: int = 1, levels: int = 3) -> dict[str, Any]:
    return {
        "vae": vae(),
        "text_encoder": None,
        "text_encoder_2": None,
        "tokenizer": None,
        "tokenizer_2": None,
        "unet": unet(layers, levels, **SDXL),
        "scheduler": SCHEDULERS[scheduler](),
        "force_zeros_for_empty_prompt": False,
        "add_watermarker": False,
    }


def _sdxl_text(ids: list[int]) -> dict[str, Any]:
    return {**encoded_text(ids), **pooled_text(ids)}


def sdxl(scheduler: str = "euler", pixels: int = PIXELS, layers: int = 1, levels: int = 3) -> Case:
    pipe = StableDiffusionXLPipeline(**_sdxl_parts(scheduler, layers, levels))
    return Case(pipe, lambda ids: common(ids, height=pixels, width=pixels, **_sdxl_text(ids)))


def sdxl_img2img(scheduler: str = "euler", pixels: int = PIXELS) -> Case:
    pipe = StableDiffusionXLImg2ImgPipeline(**_sdxl_parts(scheduler))
    return Case(pipe, lambda ids: common(ids, image=_images(ids, pixels), strength=0.75, **_sdxl_text(ids)))


def sdxl_inpaint(channels: int = 4, scheduler: str = "euler", pixels: int = PIXELS) -> Case:
    parts = _sdxl_parts(scheduler) | {"unet": unet(**SDXL, in_channels=channels)}
    pipe = StableDiffusionXLInpaintPipeline(**{k: v for k, v in parts.items() if k != "force_zeros_for_empty_prompt"})
    mask = torch.zeros(1, 1, pixels, pixels)
    mask[..., pixels // 4 : -pixels // 4, pixels // 4 : -pixels // 4] = 1

    def arguments(ids: list[int]) -> dict[str, Any]:
        shared = common(ids, image=_images(ids, pixels), height=pixels, width=pixels, **_sdxl_text(ids))
        return {**shared, "mask_image": mask.repeat(len(ids), 1, 1, 1), "strength": 1.0}

    return Case(pipe, arguments)


def sdxl_controlnet(scheduler: str = "euler", pixels: int = PIXELS) -> Case:
    parts = _sdxl_parts(scheduler)
    pipe = StableDiffusionXLControlNetPipeline(**parts, controlnet=_control(parts["unet"]))

    def arguments(ids: list[int]) -> dict[str, Any]:
        return common(ids, image=_images(ids, pixels), height=pixels, width=pixels, **_sdxl_text(ids))

    return Case(pipe, arguments)


def lcm(pixels: int = PIXELS, levels: int = 3) -> Case:
    net = unet(levels=levels, time_cond_proj_dim=16)
    pipe = LatentConsistencyModelPipeline(**{**_sd_parts("lcm"), "unet": net})

    def arguments(ids: list[int]) -> dict[str, Any]:
        text = encoded_text(ids)
        text.pop("negative_prompt_embeds")
        shared = common(ids, height=pixels, width=pixels, **text)
        return {**shared, "num_inference_steps": 6, "original_inference_steps": 50}

    return Case(pipe, arguments)


def _pixel_unet(**changes: Any) -> UNet2DConditionModel:
    """A U-Net of DeepFloyd-IF: in pixels, with learned variance; text is pooled into the time embedding."""
    options: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "only_cross_attention": False,
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "encoder_hid_dim": CROSS,
        "cross_attention_norm": "group_norm",
    }
    return unet(**{**options, **changes})


def _if_parts(net: UNet2DConditionModel, beta_schedule: str) -> dict[str, Any]:
    scheduler = DDPMScheduler(
        beta_schedule=beta_schedule, prediction_type="epsilon", thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.0, variance_type="learned_range",
    )  # fmt: skip
    nothing = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
    return {**dict.fromkeys(nothing), "unet": net, "scheduler": scheduler, "requires_safety_checker": False}


def deepfloyd_if(levels: int = 3) -> Case:
    """Stage 1: 16 pixels."""
    pipe = IFPipeline(**_if_parts(_pixel_unet(levels=levels), "squaredcos_cap_v2"))
    return Case(pipe, lambda ids: {**common(ids, height=16, width=16, **encoded_text(ids)), "output_type": "pt"})


def if_stage_2(levels: int = 3) -> Case:
    """From 8 pixels to 16; the small image, noised to a level that the network is told, is 3 more input channels."""
    net = _pixel_unet(levels=levels, in_channels=6, class_embed_type="timestep", sample_size=16)
    pipe = IFSuperResolutionPipeline(**_if_parts(net, "linear"), image_noising_scheduler=SCHEDULERS["ddpm"]())

    def arguments(ids: list[int]) -> dict[str, Any]:
        image = embed(ids, 3, 8, 8, salt=3).clamp(-1, 1)
        return {**common(ids, height=16, width=16, image=image, **encoded_text(ids)), "output_type": "pt"}

    return Case(pipe, arguments)


def upscale_x4(pixels: int = PIXELS, levels: int = 3) -> Case:
    """The last stage of DeepFloyd-IF: the small image itself, noised, is 3 more channels of the latents."""
    net = unet(
        levels=levels, in_channels=7, num_class_embeds=1000, only_cross_attention=(True, True, False),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    parts = {**_sd_parts("ddim"), "unet": net}
    parts.pop("requires_safety_checker")
    parts["vae"].register_to_config(scaling_factor=0.08333)
    pipe = StableDiffusionUpscalePipeline(**parts, low_res_scheduler=SCHEDULERS["ddpm"]())
    return Case(pipe, lambda ids: common(ids, image=_images(ids, pixels // 2), **encoded_text(ids)))


def text_to_video(pixels: int = 16) -> Case:
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
    return Case(pipe, lambda ids: common(ids, height=pixels, width=pixels, num_frames=3, **encoded_text(ids)))


def animatediff(pixels: int = 16, levels: int = 3) -> Case:
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=(8, 16, 16)[:levels],
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    pipe = AnimateDiffPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=unet(levels=levels), motion_adapter=adapter,
        scheduler=SCHEDULERS["ddim"](),
    )  # fmt: skip
    return Case(pipe, lambda ids: common(ids, height=pixels, width=pixels, num_frames=3, **encoded_text(ids)))
