"""Pipelines around the networks of other twins: the same rows of the table, other classes and arguments."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_inpaint

from tests.support.cases import embed
from tests.support.twins import controls, flux, images, qwen, unets, video, z_image
from tests.support.twins.parts import Twin, common, half_mask, image, text, wan_vae

Ids = list[int]


def _of(twin: Twin, cls: Any, without: tuple[str, ...] = (), **more: Any) -> Twin:
    """`cls` around a twin's parts; arguments that are functions are called with the ids."""
    names = inspect.signature(cls.__init__).parameters
    parts = {**{name: twin.pipe.config[name] for name in names if name in twin.pipe.config}, **twin.pipe.components}
    pipe = cls(**{name: parts[name] for name in names if name in parts})
    for name, value in vars(twin.pipe).items():
        if name.startswith("vae_scale") or name in ("latent_channels", "pag_applied_layers"):
            setattr(pipe, name, value)
    whole = twin.arguments

    def arguments(ids: Ids) -> dict[str, Any]:
        given = {name: value for name, value in whole(ids).items() if name not in without}
        return given | {name: make(ids) if callable(make) else make for name, make in more.items()}

    return Twin(pipe, arguments, twin.ids, twin.patches)


def _image(ids: Ids) -> Any:
    return image(ids, 128, 96)


def _mask(ids: Ids) -> Any:
    return half_mask(ids, 128, 96)


def flux_kontext_inpaint() -> Twin:
    return _of(flux.flux_kontext(), d.FluxKontextInpaintPipeline, image=_image, mask_image=_mask, strength=0.75)


def flux_control_img2img() -> Twin:
    return _of(flux.flux_control(), d.FluxControlImg2ImgPipeline, image=_image, strength=0.75)


def flux_control_inpaint() -> Twin:
    return _of(flux.flux_control(), d.FluxControlInpaintPipeline, image=_image, mask_image=_mask, strength=0.75)


def flux2_klein_inpaint() -> Twin:
    return _of(flux.flux2_klein(), d.Flux2KleinInpaintPipeline, image=_image, mask_image=_mask, strength=0.75)


def qwen_edit_inpaint() -> Twin:
    twin = _of(qwen.qwen_edit(), d.QwenImageEditInpaintPipeline, mask_image=_mask, strength=0.75)
    ((_, name, sizes),) = twin.patches
    return Twin(twin.pipe, twin.arguments, patches=((pipeline_qwenimage_edit_inpaint, name, sizes),))


def chroma_img2img() -> Twin:
    return _of(images.chroma(), d.ChromaImg2ImgPipeline, image=_image, strength=0.75)


def sd3_inpaint() -> Twin:
    return _of(images.sd3_img2img(channels=16), d.StableDiffusion3InpaintPipeline, mask_image=_mask)


def sdxl_instruct_pix2pix() -> Twin:
    parts = unets.xl_parts(unet=unets.unet(8))
    pipe = d.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
    return Twin(pipe, lambda ids: {**unets.sdxl_turbo().arguments(ids), "guidance_scale": 5.0, "image": image(ids)})


def sd_t2i_adapter() -> Twin:
    torch.manual_seed(0)
    adapter = d.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter"
    ).eval()
    blocks = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    net = unets.unet(xl=False, down_block_types=blocks[0], up_block_types=blocks[1])
    parts = {name: part for name, part in controls.sd_pag().pipe.components.items() if name != "image_encoder"}
    pipe = d.StableDiffusionAdapterPipeline(**{**parts, "unet": net}, adapter=adapter, requires_safety_checker=False)
    return Twin(pipe, lambda ids: common(ids, image=image(ids), height=64, width=48, **text(ids)))


def sd_pag_img2img() -> Twin:
    return _of(controls.sd_pag(), d.StableDiffusionPAGImg2ImgPipeline, ("height", "width"), image=image, strength=0.75)


def sd_pag_inpaint() -> Twin:
    return _of(controls.sd_pag(), d.StableDiffusionPAGInpaintPipeline, image=image, mask_image=half_mask, strength=0.75)


def sdxl_pag_img2img() -> Twin:
    twin = _of(unets.sdxl_pag(), d.StableDiffusionXLPAGImg2ImgPipeline, ("height", "width"), image=image, strength=0.75)
    twin.pipe.register_to_config(requires_aesthetics_score=False)
    return twin


def sdxl_pag_inpaint() -> Twin:
    twin = _of(
        unets.sdxl_pag(), d.StableDiffusionXLPAGInpaintPipeline, image=image, mask_image=half_mask, strength=0.75
    )
    twin.pipe.register_to_config(requires_aesthetics_score=False)
    return twin


def qwen_controlnet_inpaint() -> Twin:
    return _of(qwen.qwen_controlnet(extra=4), d.QwenImageControlNetInpaintPipeline, control_mask=_mask)


def sd3_controlnet_inpaint() -> Twin:
    return _of(images.sd3_controlnet(extra=1), d.StableDiffusion3ControlNetInpaintingPipeline, control_mask=_mask)


def z_image_controlnet_inpaint() -> Twin:
    twin = z_image.z_image_controlnet(channels=4 + 1 + 4)  # latents, mask, masked latents
    return _of(twin, d.ZImageControlNetInpaintPipeline, image=_image, mask_image=_mask)


def wan_video_to_video() -> Twin:
    def frames(ids: Ids) -> Any:
        return torch.sigmoid(embed(ids, 5, 3, 128, 96, salt=3))

    twin = video.wan()
    twin.pipe.register_modules(vae=wan_vae())
    return _of(twin, d.WanVideoToVideoPipeline, without=("num_frames",), video=frames, strength=0.75)


def sana_sprint_img2img() -> Twin:
    coder = d.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
    ).eval()  # fmt: skip
    twin = images.sana_sprint()
    parts = {**twin.pipe.components, "vae": coder}
    pipe = d.SanaSprintImg2ImgPipeline(**parts)
    more = {"height": 32, "width": 32, "strength": 1.0}
    return Twin(pipe, lambda ids: {**twin.arguments(ids), "image": image(ids, 32, 32), **more})
