"""FLUX.1 and FLUX.2: latents packed into tokens, other images' tokens behind them."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import Tensor, nn

from tests.support.cases import embed
from tests.support.twins.parts import WIDTH, Part, Twin, common, flow, half_mask, image, pil, pooled, text, vae


def _flux_net(channels: int = 16) -> Any:
    torch.manual_seed(0)
    return d.FluxTransformer2DModel(
        in_channels=channels, out_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=24, guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip


def _flux_parts(**parts: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(), "vae": vae(), "text_encoder": None, "tokenizer": None, "text_encoder_2": None,
        "tokenizer_2": None, "transformer": _flux_net(), **parts,
    }  # fmt: skip


def _flux_text(ids: list[int], true_cfg: bool = False) -> dict[str, Any]:
    given = {**text(ids), **pooled(ids)}
    if true_cfg:
        return {**given, "true_cfg_scale": 3.0}
    return {name: value for name, value in given.items() if not name.startswith("negative")}


def flux_kontext(true_cfg: bool = False, with_image: bool = True) -> Twin:
    pipe = d.FluxKontextPipeline(**_flux_parts())

    def arguments(ids: list[int]) -> dict[str, Any]:
        given = common(ids, height=128, width=96, max_area=128 * 96, _auto_resize=False, **_flux_text(ids, true_cfg))
        return {**given, "image": image(ids, 64, 80)} if with_image else given

    return Twin(pipe, arguments)


def flux_kontext_guided() -> Twin:
    return flux_kontext(true_cfg=True)


def flux_kontext_no_image() -> Twin:
    return flux_kontext(with_image=False)


def flux_fill() -> Twin:
    # 4 latent channels packed (16) + masked image (16) + mask of 8 x 8 pixels a latent pixel (256)
    pipe = d.FluxFillPipeline(**_flux_parts(transformer=_flux_net(16 + 16 + 256)))
    return Twin(
        pipe,
        lambda ids: common(
            ids, image=image(ids, 128, 96), mask_image=half_mask(ids, 128, 96), height=128, width=96, **_flux_text(ids)
        ),
    )


def flux_img2img(true_cfg: bool = False) -> Twin:
    pipe = d.FluxImg2ImgPipeline(**_flux_parts())
    return Twin(
        pipe,
        lambda ids: common(
            ids, image=image(ids, 128, 96), strength=0.75, height=128, width=96, **_flux_text(ids, true_cfg)
        ),
    )


def flux_inpaint() -> Twin:
    pipe = d.FluxInpaintPipeline(**_flux_parts())
    return Twin(
        pipe,
        lambda ids: common(
            ids, image=image(ids, 128, 96), mask_image=half_mask(ids, 128, 96), strength=0.75, height=128, width=96,
            **_flux_text(ids),
        ),
    )  # fmt: skip


def _flux_controlnet(cls: Any, **more: Any) -> Twin:
    torch.manual_seed(1)
    control = d.FluxControlNetModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=24, guidance_embeds=True, axes_dims_rope=[4, 4, 8],
    ).eval()  # fmt: skip
    pipe = cls(**_flux_parts(controlnet=control))

    def arguments(ids: list[int]) -> dict[str, Any]:
        made = {name: make(ids, 128, 96) for name, make in more.items() if callable(make)}
        given = common(ids, control_image=image(ids, 128, 96, salt=5), height=128, width=96, **_flux_text(ids))
        return {**given, **more, **made}

    return Twin(pipe, arguments)


def flux_controlnet() -> Twin:
    return _flux_controlnet(d.FluxControlNetPipeline)


def flux_controlnet_guided() -> Twin:
    """One call of the ControlNet for both calls of the network."""
    twin = flux_controlnet()
    whole = twin.arguments
    twin.arguments = lambda ids: {**whole(ids), **_flux_text(ids, true_cfg=True)}
    return twin


def flux_controlnets() -> Twin:
    twin, other = flux_controlnet(), flux_controlnet()
    twin.pipe.register_modules(controlnet=d.FluxMultiControlNetModel([twin.pipe.controlnet, other.pipe.controlnet]))
    whole = twin.arguments

    def arguments(ids: list[int]) -> dict[str, Any]:
        images = [image(ids, 128, 96, salt=salt) for salt in (5, 6)]
        more = {"control_image": images, "controlnet_conditioning_scale": [0.7, 0.4], "control_mode": [None, None]}
        return {**whole(ids), **more}

    twin.arguments = arguments
    return twin


def flux_controlnet_img2img() -> Twin:
    return _flux_controlnet(d.FluxControlNetImg2ImgPipeline, image=image, strength=0.75)


def flux_controlnet_inpaint() -> Twin:
    return _flux_controlnet(d.FluxControlNetInpaintPipeline, image=image, mask_image=half_mask, strength=0.75)


def flux_ip_adapter() -> Twin:
    """Image prompts that differ between the two calls of a step, swapped in one dict of arguments."""
    pipe = d.FluxPipeline(**{**_flux_parts(), "image_encoder": None, "feature_extractor": None})
    torch.manual_seed(5)
    for name, block in pipe.transformer.named_modules():
        if name.startswith("transformer_blocks") and name.endswith(".attn"):
            block.processor = FluxIPAdapterAttnProcessor(32, 32, num_tokens=(2,))
    projection = ImageProjection(image_embed_dim=12, cross_attention_dim=32, num_image_text_embeds=2)
    pipe.transformer.encoder_hid_proj = MultiIPAdapterImageProjection([projection])

    def arguments(ids: list[int]) -> dict[str, Any]:
        prompts = {"ip_adapter_image_embeds": [embed([3], 1, 12, salt=9)]}
        prompts["negative_ip_adapter_image_embeds"] = [embed([4], 1, 12, salt=9)]
        return common(ids, height=128, width=96, **_flux_text(ids, true_cfg=True), **prompts)

    return Twin(pipe, arguments)


def flux_control() -> Twin:
    """FLUX.1 Depth and Canny: the control image is in channels of the tokens."""
    pipe = d.FluxControlPipeline(**_flux_parts(transformer=_flux_net(32)))
    return Twin(
        pipe, lambda ids: common(ids, control_image=image(ids, 128, 96), height=128, width=96, **_flux_text(ids))
    )


class _Flux2VAE(Part):
    """As much of FLUX.2's autoencoder as its pipelines ask for: 4 latent channels, 2 x 2 of them a token."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 8, stride=8)
        self.bn = nn.BatchNorm2d(16, affine=False)
        self.config = type("C", (), {"block_out_channels": (1,) * 4, "batch_norm_eps": 1e-4, "latent_channels": 4})()

    def encode(self, image: Tensor) -> Any:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        means = self.encoder(image)
        parameters = torch.cat([means, torch.full_like(means, -30.0)], 1)
        return type("Out", (), {"latent_dist": DiagonalGaussianDistribution(parameters)})()


def _flux2_net(guidance: bool) -> Any:
    torch.manual_seed(0)
    return d.Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    ).eval()  # fmt: skip


def flux2(with_image: bool = False) -> Twin:
    torch.manual_seed(3)
    pipe = d.Flux2Pipeline(
        scheduler=flow(), vae=_Flux2VAE().eval(), text_encoder=None, tokenizer=None, transformer=_flux2_net(True)
    )

    def arguments(ids: list[int]) -> dict[str, Any]:
        given = common(ids, height=128, width=96, prompt_embeds=text(ids)["prompt_embeds"])
        return {**given, "image": [pil(64, 80)]} if with_image else given

    return Twin(pipe, arguments)


def flux2_image() -> Twin:
    return flux2(True)


def flux2_klein(with_image: bool = False) -> Twin:
    torch.manual_seed(3)
    pipe = d.Flux2KleinPipeline(
        scheduler=flow(), vae=_Flux2VAE().eval(), text_encoder=None, tokenizer=None, transformer=_flux2_net(False)
    )

    def arguments(ids: list[int]) -> dict[str, Any]:
        given = common(ids, height=128, width=96, **text(ids))
        return {**given, "image": [pil(64, 80)]} if with_image else given

    return Twin(pipe, arguments)


def flux2_klein_image() -> Twin:
    return flux2_klein(True)
