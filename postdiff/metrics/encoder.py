"""The dual encoder behind feature distance, Frechet distance and text score: a CLIPModel folder, with its identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from postdiff import model_files
from postdiff.engine.errors import UsageError

__all__ = ["FEATURE_LENGTH", "DualEncoder"]

FEATURE_LENGTH = 10.0
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as processors store them


class DualEncoder(nn.Module):
    """Features of pictures and of texts in one space, in float32, independent of the batch up to rounding.

    Features are the projections at length 10: directions matter, lengths do not, and the scale puts Frechet
    distances near one. Several metrics ask for the features of one batch, so the last batch is remembered.

    Args:
        clip: a transformers CLIPModel.
        tokenizer: its tokenizer.
        size: side of the square picture that the image tower expects.
        mean: per-channel mean that the image tower expects to be subtracted.
        std: per-channel standard deviation to divide by.
        resample: "bilinear" or "bicubic", for pictures of another size.
        name: what to call the encoder in a record.
        checkpoint: hash over weights, configs and vocabulary.
        weights: SHA-256 of its weight file, by which reference statistics know it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: Any,
        size: int,
        mean: list[float],
        std: list[float],
        resample: str,
        name: str,
        checkpoint: str,
        weights: str,
    ) -> None:
        super().__init__()
        self.clip = clip.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.size, self.resample, self.name = size, resample, name
        self.checkpoint, self.weights = checkpoint, weights
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._last: tuple[Tensor, Tensor] | None = None

    @classmethod
    def load(cls, folder: Path) -> DualEncoder:
        """Read a folder in CLIPModel layout with preprocessor and tokenizer files; safetensors only.

        Raises:
            UsageError: a file is missing or damaged.
        """
        weights, settings = folder / "model.safetensors", folder / "preprocessor_config.json"
        for file in (weights, settings, folder / "config.json"):
            if not file.is_file():
                raise UsageError(
                    f"dual encoder {folder} has no {file.name}; use a CLIPModel folder saved with its processor"
                )
        files = model_files.of_part(folder)
        with model_files.shown(files, folder, f"dual encoder {folder} cannot be read") as seen:
            preprocess = json.loads(settings.read_text())
            clip = CLIPModel.from_pretrained(seen, use_safetensors=True, dtype=torch.float32, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(seen, local_files_only=True)
            size = json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]
            mean, std = preprocess["image_mean"], preprocess["image_std"]
            resample = RESAMPLE[preprocess.get("resample", 3)]
        return cls(
            clip,
            tokenizer,
            size,
            mean,
            std,
            resample,
            name=f"{folder.parent.name}/{folder.name}",
            checkpoint=model_files.identity(files, folder),
            weights=model_files.sha256(weights),
        )

    @property
    def num_features(self) -> int:
        """Length of a feature vector."""
        return int(self.clip.config.projection_dim)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, d) of pictures (B, 3, H, W), uint8."""
        if self._last is None or self._last[0] is not images:
            self._last = (images, self._image_features(images))
        return self._last[1]

    def _image_features(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, f"pictures must be uint8, not {images.dtype}"
        pixels = images.float() / 255
        size = (self.size, self.size)
        if pixels.shape[-2:] != size:
            pixels = functional.interpolate(pixels, size, mode=self.resample, antialias=True).clamp(0, 1)
        pooled = self.clip.vision_model(pixel_values=(pixels - self.mean) / self.std).pooler_output
        return FEATURE_LENGTH * functional.normalize(self.clip.visual_projection(pooled))

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """Features (B, d) of texts."""
        limit = self.clip.config.text_config.max_position_embeddings
        # Always the full length, so that a text's features do not depend on its neighbours in the batch.
        tokens = self.tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        pooled = self.clip.text_model(input_ids=tokens.input_ids.to(self.mean.device)).pooler_output
        return FEATURE_LENGTH * functional.normalize(self.clip.text_projection(pooled))

    def identity(self) -> dict[str, Any]:
        """Model, checkpoint and resizing."""
        return {
            "model": self.name,
            "checkpoint": self.checkpoint[:16],
            "features": f"projection of length {FEATURE_LENGTH:g}, {self.num_features} dimensions",
            "resize": f"to {self.size}x{self.size}, {self.resample} with antialiasing; none if already that size",
            "dtype": "float32",
        }
