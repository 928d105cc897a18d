"""A tiny ImageReward checkpoint as its authors' class saves it, and the scores that this class gives with it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

TEXT, VISION, FEED = 32, 64, 48
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "dog", "##s"]
CONFIG = {
    "hidden_size": TEXT,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": FEED,
    "vocab_size": 12,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
PROMPTS = ["a red apple", "dogs"]
# (width, height) of the image that is drawn with its number as seed: what `model.score(prompt, image)` of the
# package image-reward 1.5 gives under transformers 4.36.2, for each of PROMPTS.
SCORES = {
    (64, 64): [-1.663544774055481, -2.0034475326538086],
    (300, 260): [-1.6016863584518433, -1.872984528541565],
}


def image(seed: int, size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W), uint8."""
    width, height = size
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def state() -> dict[str, torch.Tensor]:
    """Random tensors under the names of the authors' file; a tensor depends on its place in the sorted names."""
    found = {}
    for place, (name, shape) in enumerate(sorted(_shapes().items())):
        if name.endswith("position_ids"):
            found[name] = torch.arange(shape[1]).expand(1, -1)
            continue
        values = torch.randn(shape, generator=torch.Generator().manual_seed(place))
        centre = name.lower().endswith(("norm.weight", "norm1.weight", "norm2.weight"))
        found[name] = values * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3) + float(centre)
    return found


def save(folder: Path) -> None:
    """The three files of a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state(), folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def _shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    text, vision = "blip.text_encoder", "blip.visual_encoder"
    found[f"{text}.embeddings.position_ids"] = (1, 40)
    found[f"{text}.embeddings.position_embeddings.weight"] = (40, TEXT)
    found[f"{text}.embeddings.word_embeddings.weight"] = (12, TEXT)
    norm(f"{text}.embeddings.LayerNorm", TEXT)
    for number in range(2):
        layer, block = f"{text}.encoder.layer.{number}", f"{vision}.blocks.{number}"
        for kind, seen in {"attention": TEXT, "crossattention": VISION}.items():
            for part, into in {"query": TEXT, "key": seen, "value": seen}.items():
                linear(f"{layer}.{kind}.self.{part}", TEXT, into)
            linear(f"{layer}.{kind}.output.dense", TEXT, TEXT)
            norm(f"{layer}.{kind}.output.LayerNorm", TEXT)
        linear(f"{layer}.intermediate.dense", FEED, TEXT)
        linear(f"{layer}.output.dense", TEXT, FEED)
        norm(f"{layer}.output.LayerNorm", TEXT)
        linear(f"{block}.attn.qkv", 3 * VISION, VISION)
        linear(f"{block}.attn.proj", VISION, VISION)
        linear(f"{block}.mlp.fc1", 4 * VISION, VISION)
        linear(f"{block}.mlp.fc2", VISION, 4 * VISION)
        norm(f"{block}.norm1", VISION)
        norm(f"{block}.norm2", VISION)
    found[f"{vision}.cls_token"], found[f"{vision}.pos_embed"] = (1, 1, VISION), (1, 197, VISION)
    found[f"{vision}.patch_embed.proj.weight"] = (VISION, 3, 16, 16)
    found[f"{vision}.patch_embed.proj.bias"] = (VISION,)
    norm(f"{vision}.norm", VISION)
    linear("blip.vision_proj", 256, VISION)
    linear("blip.text_proj", 256, TEXT)
    for place, (out, into) in {0: (1024, TEXT), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}.items():
        linear(f"mlp.layers.{place}", out, into)
    return found
