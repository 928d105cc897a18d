"""ControlNets of U-Nets beside other conditions, several kinds in one (Union), perturbed attention, image prompts."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch

from tests.support.twins.parts import Twin, common, half_mask, image, pooled, text, vae
from tests.support.twins.unets import euler, unet, xl_parts

KINDS = ("text", "img2img", "inpaint")


def _sd_parts(**parts: Any) -> dict[str, Any]:
    return {
        "vae": vae(), "text_encoder": None, "tokenizer": None, "unet": unet(xl=False), "scheduler": euler(),
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **parts,
    }  # fmt: skip


def _control(net: Any) -> Any:
    torch.manual_seed(2)
    return d.ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(4, 4, 8, 8)).eval()


def _union(net: Any) -> Any:
    shared = (
        "block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim", "norm_num_groups",
        "down_block_types", "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
        "transformer_layers_per_block", "use_linear_projection",
    )  # fmt: skip
    torch.manual_seed(2)
    return d.ControlNetUnionModel(
        **{name: net.config[name] for name in shared}, conditioning_embedding_out_channels=(4, 4, 8, 8),
        num_trans_channel=8, num_trans_head=2, num_trans_layer=1, num_proj_channel=8,
    ).eval()  # fmt: skip


def _given(ids: list[int], kind: str, xl: bool) -> dict[str, Any]:
    """In text-to-image the control image is called "image" by some, so callers add it."""
    given = {**text(ids), **(pooled(ids) if xl else {}), "height": 64, "width": 48}
    if kind != "text":
        given |= {"image": image(ids), "strength": 0.75}
    if kind == "inpaint":
        given["mask_image"] = half_mask(ids)
    return given


def _controlled(pipe: Any, kind: str, xl: bool) -> Twin:
    name = "image" if kind == "text" else "control_image"
    return Twin(pipe, lambda ids: common(ids, **_given(ids, kind, xl), **{name: image(ids, salt=5)}))


def sd_controlnet(kind: str) -> Twin:
    parts = _sd_parts()
    cls = {"img2img": d.StableDiffusionControlNetImg2ImgPipeline, "inpaint": d.StableDiffusionControlNetInpaintPipeline}
    return _controlled(cls[kind](**parts, controlnet=_control(parts["unet"])), kind, False)


def sd_controlnet_img2img() -> Twin:
    return sd_controlnet("img2img")


def sd_controlnet_inpaint() -> Twin:
    return sd_controlnet("inpaint")


def sdxl_controlnet(kind: str, union: bool = False) -> Twin:
    parts = xl_parts()
    if union:
        classes = (
            d.StableDiffusionXLControlNetUnionPipeline, d.StableDiffusionXLControlNetUnionImg2ImgPipeline,
            d.StableDiffusionXLControlNetUnionInpaintPipeline,
        )  # fmt: skip
    else:
        classes = (
            d.StableDiffusionXLControlNetPipeline, d.StableDiffusionXLControlNetImg2ImgPipeline,
            d.StableDiffusionXLControlNetInpaintPipeline,
        )  # fmt: skip
    control = (_union if union else _control)(parts["unet"])
    pipe = classes[KINDS.index(kind)](**parts, controlnet=control, add_watermarker=False)
    if kind != "text":
        pipe.register_to_config(requires_aesthetics_score=False)
    if union:
        return Twin(
            pipe,
            lambda ids: common(ids, **_given(ids, kind, True), control_image=[image(ids, salt=5)], control_mode=[3]),
        )
    return _controlled(pipe, kind, True)


def sdxl_controlnet_img2img() -> Twin:
    return sdxl_controlnet("img2img")


def sdxl_controlnet_inpaint() -> Twin:
    return sdxl_controlnet("inpaint")


def sdxl_union() -> Twin:
    return sdxl_controlnet("text", union=True)


def sdxl_union_img2img() -> Twin:
    return sdxl_controlnet("img2img", union=True)


def sdxl_union_inpaint() -> Twin:
    return sdxl_controlnet("inpaint", union=True)


def sd_pag() -> Twin:
    pipe = d.StableDiffusionPAGPipeline(**_sd_parts(), pag_applied_layers=["mid"])
    return Twin(pipe, lambda ids: common(ids, pag_scale=2.0, **_given(ids, "text", False)))


def sd_pag_unguided() -> Twin:
    """Two branches, and none of them unconditional."""
    twin = sd_pag()
    whole = twin.arguments
    twin.arguments = lambda ids: {**whole(ids), "guidance_scale": 1.0}
    return twin


def sdxl_pag_controlnet() -> Twin:
    parts = xl_parts()
    pipe = d.StableDiffusionXLControlNetPAGPipeline(
        **parts, controlnet=_control(parts["unet"]), pag_applied_layers=["mid"], add_watermarker=False
    )
    return Twin(pipe, lambda ids: common(ids, pag_scale=2.0, **_given(ids, "text", True), image=image(ids, salt=5)))


def _controlled_pag(cls: Any, parts: dict[str, Any], kind: str, xl: bool) -> Twin:
    pipe = cls(**parts, controlnet=_control(parts["unet"]), pag_applied_layers=["mid"])
    if xl:
        pipe.register_to_config(requires_aesthetics_score=False)
    twin = _controlled(pipe, kind, xl)
    whole = twin.arguments
    twin.arguments = lambda ids: {**whole(ids), "pag_scale": 2.0}
    return twin


def sd_pag_controlnet() -> Twin:
    return _controlled_pag(d.StableDiffusionControlNetPAGPipeline, _sd_parts(), "text", False)


def sd_pag_controlnet_inpaint() -> Twin:
    return _controlled_pag(d.StableDiffusionControlNetPAGInpaintPipeline, _sd_parts(), "inpaint", False)


def sdxl_pag_controlnet_img2img() -> Twin:
    return _controlled_pag(d.StableDiffusionXLControlNetPAGImg2ImgPipeline, xl_parts(), "img2img", True)
