"""PickScore: a CLIP-H tuned on people's choices between two pictures of one prompt."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from postdiff import model_files
from postdiff.metrics.checkpoints import PICK_SCORE, fetched
from postdiff.metrics.preference import PairedPreference, Scorer, ScorerMetric

__all__ = ["PairedPickPreference", "PickScore", "PickScorer"]

# The authors publish the tuned weights alone and name this repository for tokenizer and image processor.
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class PickScorer(Scorer):
    """logit_scale.exp() x cosine(text, picture), in float32; about 20 for the published weights.

    Args:
        clip: a transformers CLIPModel.
        tokenizer: its tokenizer.
        processor: its image processor.
        checkpoint: which weights they are.

    Reference:
        Kirstain et al., "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", NeurIPS 2023,
        arXiv:2305.01569, Sec. 4.
    """

    def __init__(self, clip: CLIPModel, tokenizer: Any, processor: Any, checkpoint: str) -> None:
        super().__init__()
        self.clip = clip.float().eval().requires_grad_(False)
        self.tokenizer, self.processor, self.checkpoint = tokenizer, processor, checkpoint

    @classmethod
    def load(cls) -> PickScorer:
        """From the folder or repository in POSTDIFF_PICKSCORE, or else the authors'; safetensors only.

        Raises:
            UsageError: a file is missing and cannot be fetched.
        """
        folder = PICK_SCORE.folder()
        return _loaded(folder, PICK_SCORE.identity(folder))

    def scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        device = self.clip.logit_scale.device
        pixels = self.processor(images=list(images.cpu()), return_tensors="pt").pixel_values.to(device)
        limit = self.clip.config.text_config.max_position_embeddings
        # Always the full length, so that a text's features do not depend on its neighbours in the batch.
        tokens = self.tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        text = self.clip.text_model(
            input_ids=tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)
        )
        text_features = self.clip.text_projection(text.pooler_output)
        image_features = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)
        return self.clip.logit_scale.exp() * functional.cosine_similarity(text_features, image_features)

    def identity(self) -> dict[str, Any]:
        return {
            "model": "PickScore",
            "checkpoint": self.checkpoint,
            "formula": "exp(logit_scale) x cosine",
            "resize": f"image processor of the checkpoint: {_described(self.processor)}",
            "dtype": "float32",
        }


class PickScore(ScorerMetric):
    """Mean PickScore."""

    def __init__(self) -> None:
        super().__init__(PickScorer.load())


class PairedPickPreference(PairedPreference):
    """Mean probability, in percent, that PickScore prefers a picture to its reference."""

    def __init__(self) -> None:
        super().__init__(PickScorer.load())


# One copy for all metrics and seeds: the published weights are 4 GB.
@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, checkpoint: str) -> PickScorer:
    own = (folder / "preprocessor_config.json").is_file() and (folder / "tokenizer_config.json").is_file()
    remedy = "save tokenizer and image processor of that repository into the folder of the weights"
    beside = folder if own else fetched(PROCESSOR, ("*.json", "*.txt"), remedy)
    with model_files.shown(PICK_SCORE.files(folder), folder, f"{folder} is no CLIP model") as seen:
        clip = CLIPModel.from_pretrained(seen, use_safetensors=True, dtype=torch.float32, local_files_only=True)
    with model_files.shown(
        model_files.of_part(beside, weighted=False), beside, f"{beside} has no tokenizer or processor"
    ) as seen:
        tokenizer = AutoTokenizer.from_pretrained(seen, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(seen, local_files_only=True)
    return PickScorer(clip, tokenizer, processor, checkpoint)


def _described(processor: Any) -> str:
    settings = processor.to_dict()
    return ", ".join(f"{name} {settings.get(name)}" for name in ("size", "resample", "do_center_crop", "crop_size"))
