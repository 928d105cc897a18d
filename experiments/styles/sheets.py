"""Images of the model, and a sheet of them to look at."""

import random
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from experiments.styles.captions import STYLES, Subject
from experiments.styles.drawings import Drawings
from experiments.styles.split import Split


def generate(
    pipeline: StableDiffusionPipeline,
    subjects: list[Subject],
    steps: int,
    guidance: float,
    side: int = 64,
    first: int = 0,
) -> Tensor:
    """Images in [0, 1], (N, 3, side, side); the noise of image i depends on `first` + i alone."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(subjects), 32):
        chunk = subjects[start : start + 32]
        images.append(
            pipeline(
                [subject.caption() for subject in chunk],
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=side,
                width=side,
                generator=[torch.Generator().manual_seed(first + start + place) for place in range(len(chunk))],
                output_type="pt",
            ).images.cpu()
        )
    return torch.cat(images)


def sheet(
    model: Path, drawings: Drawings, split: Split, steps: int = 20, guidance: float = 3.0, side: int = 64
) -> Image.Image:
    """Ten pairs of every style, real above generated: first four rows of two of held-out pairs, then of seen ones."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    randomness = random.Random(1)
    subjects, real = [], []
    for held in (True, False):
        for style in STYLES:
            pairs = split.held_pairs() if held else split.seen_pairs()
            for concept, _ in randomness.sample([one for one in pairs if one[1] == style], 10):
                subject = Subject(concept, style, randomness.choice(split.seen_colours(style)))
                subjects.append(subject)
                real.append(drawings.image(split.concepts.index(concept), style, subject.colour))
    generated = generate(pipeline, subjects, steps, guidance, side)
    real_images = torch.nn.functional.interpolate(torch.stack(real), size=(side, side), mode="area")
    rows = [rows for pair in zip(real_images.split(10), generated.split(10), strict=True) for rows in pair]
    picture = to_pil_image(make_grid(torch.cat(rows), 10, padding=2, pad_value=1.0))
    return picture.resize((picture.width * 96 // side, picture.height * 96 // side), Image.Resampling.NEAREST)
