"""Generated images, one seed each, and grids of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

GUIDANCE_SCALE = 4.0


def load(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in fp32, silent."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Callable[..., Any], prompts: list[str], steps: int, seed: int = 0, size: int = 64, batch: int = 25
) -> Tensor:
    """Images in [0, 1], (N, 3, size, size); the noise of image i depends on `seed` and i alone.

    `pipeline` is the pipeline or a driver over it.
    """
    images = []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        images.append(
            pipeline(
                chunk,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE_SCALE,
                height=size,
                width=size,
                generator=[torch.Generator().manual_seed(10_000 * seed + start + i) for i in range(len(chunk))],
                output_type="pt",
            ).images.cpu()
        )
    # What a PNG would hold: scores should not depend on whether images went through a file.
    return torch.cat(images).mul(255).round().div(255)


def grid(images: Tensor, columns: int, zoom: int = 1) -> Image.Image:
    """Images in rows of `columns` on white, each pixel repeated `zoom` times."""
    sheet = to_pil_image(make_grid(images, columns, padding=2, pad_value=1.0))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
