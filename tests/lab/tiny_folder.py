"""A pipeline folder with random weights, as small as diffusers allows, with dual encoder, prompts and statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from tests.support import parts, texts

PROMPTS = ["a heart", "an apple", "a dog", "a cat", "a car"]
FEATURES = 8


def clip() -> CLIPModel:
    """A dual encoder of 32-pixel images."""
    words = texts.clip_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {**shape, **ends, "vocab_size": len(words), "max_position_embeddings": texts.LENGTH}
    torch.manual_seed(3)
    return CLIPModel(
        CLIPConfig(
            text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=FEATURES
        )
    ).eval()


def save_encoder(folder: Path) -> None:
    """A CLIPModel folder with tokenizer and preprocessor."""
    clip().save_pretrained(folder)
    texts.clip_tokenizer().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )


def save_pipeline(folder: Path, safe: bool = True) -> None:
    """A StableDiffusionPipeline folder of 32-pixel images."""
    StableDiffusionPipeline(
        vae=parts.vae(),
        unet=parts.unet(layers=1),
        text_encoder=texts.clip_text(),
        tokenizer=texts.clip_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(**parts.BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=safe)


def save_images(folder: Path, count: int) -> None:
    """Images of 40 x 48 pixels, one bright disc each on noise."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:40, :48]
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 60, (40, 48, 3), dtype=np.uint8)
        noise[(y - 20) ** 2 + (x - 16 - 4 * number) ** 2 < 100] += 180
        Image.fromarray(noise).save(folder / f"{number}.png")


def save_masks(folder: Path, count: int) -> None:
    """Masks of such images, white to the right of their middle."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[:, 24:] = 255
        Image.fromarray(mask).save(folder / f"{number}.bmp")


def save_task_data(root: Path) -> None:
    """Data cards for models that take more than text: `tiny_images`, `tiny_canny`, `tiny_masked`, `tiny_classes`."""
    save_images(root / "images", len(PROMPTS))
    save_masks(root / "masks", len(PROMPTS))
    conditioned = {"prompts": str(root / "prompts.jsonl"), "images": str(root / "images")}
    cards = {
        "tiny_images": conditioned,
        "tiny_canny": {**conditioned, "condition": "canny"},
        "tiny_masked": {**conditioned, "masks": str(root / "masks")},
        "tiny_classes": {"prompts": str(root / "prompts.jsonl"), "classes": len(PROMPTS)},
    }
    for name, content in cards.items():
        (root / "configs" / "data" / f"{name}.yaml").write_text(yaml.safe_dump(content))


def save_configs(root: Path) -> None:
    """A folder for POSTDIFF_PATH: model, data and experiment named `tiny`, and data for other tasks."""
    model = root / "model"
    save_pipeline(model)
    save_encoder(model / "dual_encoder")
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    statistics = {
        "mean": torch.zeros(FEATURES, dtype=torch.float64),
        "covariance": torch.eye(FEATURES, dtype=torch.float64),
        "count": torch.tensor(50),
    }
    save_file(statistics, root / "statistics.safetensors")
    data = {"prompts": str(root / "prompts.jsonl"), "reference_statistics": str(root / "statistics.safetensors")}
    card = {
        "pipeline": "StableDiffusionPipeline",
        "folder": str(model),
        "height": 32,
        "width": 32,
        "guidance_scale": 3.0,
        "dual_encoder": str(model / "dual_encoder"),
    }
    base = {"model": "tiny", "data": "tiny", "steps": 4, "count": 3, "seeds": [0, 1], "batch_size": 2}
    experiment = {
        "summary": "two rows",
        "base": {**base, "reference_steps": 6, "bench": {"repeats": 2, "warmup": 0}},
        "rows": {
            "plain": {"label": "Plain", "reported": {"paired_psnr": 20.0}},
            "cached": {"label": "Cached", "methods": [{"deepcache": {"interval": 2}}]},
        },
    }
    for kind, content in {"data": data, "models": card, "experiments": experiment}.items():
        file = root / "configs" / kind / "tiny.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content, sort_keys=False))
    save_task_data(root)
