"""Z-Image: its network takes a list of images and a list of texts."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch

from tests.support.cases import embed
from tests.support.twins.parts import WIDTH, Twin, common, flow, half_mask, image, vae


def _z_net() -> Any:
    torch.manual_seed(0)
    net = d.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=3, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[256, 64, 64],
    ).eval()  # fmt: skip
    with torch.no_grad():
        for p in (net.x_pad_token, net.cap_pad_token):
            p.normal_(std=0.02)
    return net


def _z_text(ids: list[int], guided: bool) -> dict[str, Any]:
    """One tensor a sample, each of its own length."""
    given = {"prompt_embeds": [embed([i], 5 + i % 3, WIDTH, salt=1)[0] for i in ids]}
    if guided:
        given["negative_prompt_embeds"] = [embed([99], 4, WIDTH, salt=2)[0] for _ in ids]
    return given


def z_image(guided: bool = True) -> Twin:
    pipe = d.ZImagePipeline(scheduler=flow(False), vae=vae(), text_encoder=None, tokenizer=None, transformer=_z_net())
    return Twin(
        pipe,
        lambda ids: common(ids, guidance_scale=4.0 if guided else 0.0, height=128, width=96, **_z_text(ids, guided)),
    )


def z_image_turbo() -> Twin:
    return z_image(guided=False)


def z_image_truncated() -> Twin:
    """Guidance is switched off in mid-run (`cfg_truncation`), and its result is normalised."""
    twin = z_image()
    return Twin(twin.pipe, lambda ids: {**twin.arguments(ids), "cfg_truncation": 0.5, "cfg_normalization": True})


def z_image_img2img() -> Twin:
    pipe = d.ZImageImg2ImgPipeline(
        scheduler=flow(False), vae=vae(), text_encoder=None, tokenizer=None, transformer=_z_net()
    )
    return Twin(
        pipe,
        lambda ids: common(
            ids,
            guidance_scale=0.0,
            image=image(ids, 128, 96),
            strength=0.75,
            height=128,
            width=96,
            **_z_text(ids, False),
        ),
    )


def z_image_inpaint() -> Twin:
    pipe = d.ZImageInpaintPipeline(
        scheduler=flow(False), vae=vae(), text_encoder=None, tokenizer=None, transformer=_z_net()
    )
    return Twin(
        pipe,
        lambda ids: common(
            ids, guidance_scale=0.0, image=image(ids, 128, 96), mask_image=half_mask(ids, 128, 96), strength=0.75,
            height=128, width=96, **_z_text(ids, False),
        ),
    )  # fmt: skip


def z_image_controlnet(channels: int = 4) -> Twin:
    """Its ControlNet takes lists too, and latents of its image; it borrows modules of the network."""
    net = _z_net()
    torch.manual_seed(1)
    control = d.ZImageControlNetModel(
        control_layers_places=[0, 2], control_refiner_layers_places=[0], control_in_dim=channels,
        add_control_noise_refiner="control_layers", dim=32, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    ).eval()  # fmt: skip
    pipe = d.ZImageControlNetPipeline(
        scheduler=flow(False), vae=vae(), text_encoder=None, tokenizer=None, transformer=net, controlnet=control
    )
    return Twin(
        pipe,
        lambda ids: common(
            ids, guidance_scale=4.0, control_image=image(ids, 128, 96), height=128, width=96, **_z_text(ids, True)
        ),
    )
