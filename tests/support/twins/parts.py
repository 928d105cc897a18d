"""Twins: tiny random pipelines of 4 steps, many to a second. Prompts are embeddings, so text encoders are left out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import diffusers as d
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.support.cases import Case, embed, generators

WIDTH = 32  # of text embeddings
STEPS = 4


@dataclass
class Twin(Case):
    """A case that hears every input.

    Attributes:
        ids: samples of a call; pipelines that serve one sample a call have one.
        patches: (module, name, value) that hold during a call, where a pipeline has sizes of its own.
    """

    ids: tuple[int, ...] = (0, 1)
    patches: tuple[tuple[Any, str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Projections that start from zero would make the network deaf to text or to a control image."""
        generator = torch.Generator().manual_seed(11)
        for part in self.pipe.components.values():
            for values in part.parameters() if isinstance(part, nn.Module) else ():
                if values.ndim > 1 and not values.any():
                    values.data.copy_(0.1 * torch.randn(values.shape, generator=generator))
        self.pipe.set_progress_bar_config(disable=True)

    def call(self, run: Callable[..., Any], ids: list[int] | None = None, **changes: Any) -> Tensor:
        torch.manual_seed(0)  # some pipelines encode images without their generator
        arguments = self.arguments(list(self.ids) if ids is None else ids)
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(mock.patch.object(*patch))
            out = run(**{**arguments, "return_dict": False, **changes})[0]
        return torch.stack(list(out)) if isinstance(out, list) else torch.as_tensor(out)


def image(ids: list[int], height: int = 64, width: int = 48, salt: int = 7) -> Tensor:
    return torch.sigmoid(embed(ids, 3, height, width, salt=salt))


def pil(height: int = 64, width: int = 80) -> Any:
    return Image.fromarray((image([5], height, width)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def half_mask(ids: list[int], height: int = 64, width: int = 48) -> Tensor:
    mask = torch.zeros(len(ids), 1, height, width)
    mask[..., : width // 2] = 1
    return mask


def common(ids: list[int], **extra: Any) -> dict[str, Any]:
    return {
        "num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "latent", "generator": generators(ids),
        **extra,
    }  # fmt: skip


def text(ids: list[int], width: int = WIDTH, tokens: int = 6) -> dict[str, Any]:
    return {
        "prompt_embeds": embed(ids, tokens, width, salt=1),
        "negative_prompt_embeds": embed([99] * len(ids), tokens, width, salt=2),
    }


def pooled(ids: list[int]) -> dict[str, Any]:
    return {
        "pooled_prompt_embeds": embed(ids, 24, salt=4),
        "negative_pooled_prompt_embeds": embed([99] * len(ids), 24, salt=4),
    }


def flow(dynamic: bool = True, **extra: Any) -> Any:
    return d.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic, **extra)


def vae(latent: int = 4, blocks: int = 4) -> Any:
    return d.AutoencoderKL(
        block_out_channels=(4,) * blocks, down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks, latent_channels=latent, norm_num_groups=1,
        layers_per_block=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0,
        mid_block_add_attention=False,
    ).eval()  # fmt: skip


class Part(nn.Module):
    """A stand-in for a component of which a pipeline asks little."""

    device, dtype = torch.device("cpu"), torch.float32


def qwen_vae() -> Any:
    torch.manual_seed(0)
    return d.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip


def wan_vae() -> Any:
    torch.manual_seed(0)
    return d.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
