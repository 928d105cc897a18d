"""PickScore: a CLIP-H tuned on people's choices between two images of one prompt."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from postdiff import hub
from postdiff.metrics import clip
from postdiff.metrics.checkpoints import BESIDE, PICK_SCORE
from postdiff.metrics.preference import Scorer, ScorerMetric

__all__ = ["PairedPickPreference", "PickScore", "PickScorer"]

# The authors publish the tuned weights alone and name this repository for tokenizer and image processor.
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class PickScorer(Scorer):
    """logit_scale.exp() x cosine(text, image), in float32; about 20 for the published weights.

    Args:
        clip: gives the features.

    Reference:
        Kirstain et al., "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", NeurIPS 2023,
        arXiv:2305.01569, Sec. 4.
    """

    def __init__(self, clip: clip.ClipExtractor) -> None:
        super().__init__()
        self.clip = clip

    @classmethod
    def load(cls) -> PickScorer:
        folder = PICK_SCORE.folder()
        return _loaded(folder, PICK_SCORE.identity(folder))

    def scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        scale: Any = self.clip.network.logit_scale
        return scale.exp() * functional.cosine_similarity(self.clip.text_features(prompts), self.clip(images))

    def identity(self) -> dict[str, Any]:
        return {
            "model": "PickScore",
            "checkpoint": self.clip.checkpoint,
            "formula": "exp(logit_scale) x cosine",
            "resize": self.clip.resize,
            "dtype": "float32",
        }


class PickScore(ScorerMetric):
    """Score of image and prompt learnt from people's choices, about 20; needs its weights."""

    title = "PickScore"
    higher_is_better = True
    digits = 2
    weights = PICK_SCORE
    behind = PickScorer


class PairedPickPreference(ScorerMetric):
    """Probability by PickScore that an image is preferred to the reference run's, in percent; needs its weights.

    It is the softmax of the two scores, so two rows' probabilities against each other sum to 100 and equal images
    have 50: the form in which Faster Diffusion, Table 15, gives PickScore (52.10 % against 47.90 %). The paper does not
    say whether its value is this mean or the share of won pairs; the mean needs no rule for ties.
    """

    title = "Preferred (%)"
    higher_is_better = True
    digits = 2
    needs = ("references",)
    weights = PICK_SCORE
    behind = PickScorer

    def update(self, images: Tensor, references: Tensor, prompts: list[str]) -> None:  # type: ignore[override]
        """Take in images and references, (B, 3, H, W), uint8, and their B prompts."""
        # References first: the images' scores then stay remembered for the next metric.
        expected, found = self.scorer(references, prompts), self.scorer(images, prompts)
        self.add(100 * torch.sigmoid(found.double() - expected.double()))

    def identity(self) -> dict[str, Any]:
        return {"formula": "100 x softmax of the scores of image and reference", **self.scorer.identity()}


# One copy for all metrics and seeds: the published weights are 4 GB.
@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, checkpoint: str) -> PickScorer:
    own = (folder / "preprocessor_config.json").is_file() and (folder / "tokenizer_config.json").is_file()
    remedy = "save tokenizer and image processor of that repository into the folder of the weights"
    beside = None if own else hub.fetch_files(PROCESSOR, None, BESIDE, remedy)
    return PickScorer(clip.of_transformers(folder, checkpoint, "PickScore", beside))
