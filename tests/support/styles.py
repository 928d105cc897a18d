"""A tiny U-Net trained for a few steps, on drawings of five concepts."""

from pathlib import Path

import torch

from experiments.styles import __main__ as training
from experiments.styles.drawings import Drawings
from experiments.styles.split import Split

CONCEPTS = ("apple", "bone", "cat", "key", "star")


def train(
    out: Path, vae: Path, drawings: Drawings, split: Split, steps: int, precision="32-true", accelerator="cpu", **more
) -> dict:
    """The checkpoint after so many steps of a tiny U-Net."""
    if not (out / "vae").exists():
        out.mkdir(exist_ok=True)
        (out / "vae").symlink_to(vae)
    until = more.pop("until", float("inf"))
    tiny = {"times": 1, "channels": (16, 16, 16), "accelerator": accelerator}
    training.train_unet(out, drawings, split, until, 2, precision, steps, **tiny, **more)
    return torch.load(out / "checkpoints" / "unet.ckpt", weights_only=False)
