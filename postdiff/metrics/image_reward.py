"""ImageReward: a BLIP whose text tower looks at the image, with a small head that gives a reward.

The authors' package `image-reward` 1.5 cannot be imported beside transformers 5, so transformers' own BLIP holds their
weights here; a test compares with scores of their class.
"""

from __future__ import annotations

import functools
import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode, to_pil_image
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from postdiff import hub
from postdiff.engine.errors import UsageError
from postdiff.metrics.checkpoints import IMAGE_REWARD
from postdiff.metrics.preference import Scorer, ScorerMetric

__all__ = ["ImageReward", "RewardScorer"]

TOKENIZER = "google-bert/bert-base-uncased"
TOKENS = 35
# What is taken over from `med_config.json`.
TAKEN = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
)
# Of the rewards over the authors' validation set, which they make zero mean and unit deviation with.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
PIXEL_MEAN, PIXEL_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64  # of an attention head of the vision tower, as in every ViT of BLIP
# From the names in the authors' file to transformers' ones, tried in turn.
NAMES = (
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^mlp\.layers\.", "head."),
)


class RewardScorer(Scorer):
    """The reward of each image for its prompt, in float32; about 0 on average, 1 is one standard deviation better.

    Args:
        state: the tensors of the authors' file, by name.
        config: their `med_config.json`.
        tokenizer: a BertTokenizer.
        checkpoint: which weights they are.

    Raises:
        UsageError: the tensors are those of another model.

    Reference:
        Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", NeurIPS 2023,
        arXiv:2304.05977, Sec. 3.
    """

    def __init__(self, state: dict[str, Tensor], config: dict[str, Any], tokenizer: Any, checkpoint: str) -> None:
        super().__init__()
        self.tokenizer, self.checkpoint = tokenizer, checkpoint
        named = {}
        for name, value in state.items():
            for pattern, new in NAMES:
                name = re.sub(pattern, new, name)
            named[name] = value
        try:
            self.vision = BlipVisionModel(_vision_config(named))
            # `is_decoder` is what gives it cross-attention; it still reads the text in both directions.
            taken: dict[str, Any] = {"encoder_hidden_size": self.vision.config.hidden_size, "is_decoder": True}
            taken |= {name: config[name] for name in TAKEN}
            self.text = BlipTextModel(BlipTextConfig(**taken), add_pooling_layer=False)
            self.head = _head(named)
            # The file also holds projections of BLIP's that no reward uses.
            if missing := self.load_state_dict(named, strict=False).missing_keys:
                raise KeyError(missing[0])
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"ImageReward: the weights {checkpoint} are not those of {IMAGE_REWARD.hub} (at {reason}); set "
                f"{IMAGE_REWARD.variable} to a folder with its files"
            ) from None
        self.float().eval().requires_grad_(False)
        self.side = _side(named)
        self.prepare = transforms.Compose(
            [
                transforms.Resize(self.side, InterpolationMode.BICUBIC),
                transforms.CenterCrop(self.side),
                transforms.ToTensor(),
                transforms.Normalize(PIXEL_MEAN, PIXEL_DEVIATION),
            ]
        )

    @classmethod
    def load(cls) -> RewardScorer:
        folder = IMAGE_REWARD.folder()
        return _loaded(folder, IMAGE_REWARD.identity(folder))

    def scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        device = self.text.device
        pixels = torch.stack([self.prepare(to_pil_image(image)) for image in images.cpu()]).to(device)
        tokens = self.tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        seen = self.text(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            encoder_hidden_states=self.vision(pixel_values=pixels).last_hidden_state,
        )
        return (self.head(seen.last_hidden_state[:, 0]).squeeze(1) - MEAN) / DEVIATION

    def identity(self) -> dict[str, Any]:
        return {
            "model": "ImageReward",
            "checkpoint": self.checkpoint,
            "resize": f"shorter side to {self.side}, PIL bicubic, centre crop",
            "text": f"first {TOKENS} tokens",
            "dtype": "float32",
        }


class ImageReward(ScorerMetric):
    """Reward of image and prompt learnt from people's ratings, 0 on average; needs its weights."""

    title = "ImageReward"
    higher_is_better = True
    digits = 3
    weights = IMAGE_REWARD
    behind = RewardScorer


# One copy for all seeds: the published weights are 1.8 GB.
@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, checkpoint: str) -> RewardScorer:
    config = folder / "med_config.json"
    if not config.is_file():
        raise UsageError(f"ImageReward: {folder} has no med_config.json; take it from {IMAGE_REWARD.hub}")
    words = folder / "vocab.txt"
    if not words.is_file():
        words = hub.fetch_files(TOKENIZER, None, (words.name,), f"put its vocab.txt into {folder}") / words.name
    try:
        # The file is a pickle: only tensors are let in.
        state = torch.load(folder / IMAGE_REWARD.weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"ImageReward: {folder / IMAGE_REWARD.weights} holds more than tensors; take it from {IMAGE_REWARD.hub}"
        ) from None
    return RewardScorer(state, json.loads(config.read_text()), BertTokenizer(str(words)), checkpoint)


def _side(named: dict[str, Tensor]) -> int:
    """Side of the square image that the vision tower expects."""
    patches = named["vision.embeddings.position_embedding"].shape[1] - 1
    return round(patches**0.5) * named["vision.embeddings.patch_embedding.weight"].shape[-1]


def _vision_config(named: dict[str, Tensor]) -> BlipVisionConfig:
    width, patch = (named["vision.embeddings.patch_embedding.weight"].shape[place] for place in (0, -1))
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=named["vision.encoder.layers.0.mlp.fc1.bias"].numel(),
        num_hidden_layers=len({name.split(".")[3] for name in named if name.startswith("vision.encoder.layers.")}),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=_side(named),
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )


def _head(named: dict[str, Tensor]) -> nn.Sequential:
    """The layers of the file; the numbers between them are dropout, which does nothing here."""
    weights = {name: value for name, value in named.items() if re.match(r"head\..*weight", name)}
    widths = {int(name.split(".")[1]): value.shape for name, value in weights.items()}
    head = nn.Sequential(*(nn.Identity() for _ in range(max(widths) + 1)))
    for place, (out, into) in widths.items():
        head[place] = nn.Linear(into, out)
    return head
