"""CLIP models of transformers or open_clip, as an extractor of picture features and of text features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from postdiff import model_files
from postdiff.engine.errors import UsageError
from postdiff.metrics.checkpoints import CLIP, Checkpoint, hash_of
from postdiff.metrics.extractor import Extractor

__all__ = ["ClipExtractor", "OPEN_CLIP", "load", "mark"]

OPEN_CLIP = "open_clip:"


class ClipExtractor(Extractor):
    """Unit features of pictures and of texts in one space, in float32, with the model's own processor before it.

    Args:
        network: the whole model, which is moved between devices.
        pictures: gives features (B, d) of what `prepare` gives.
        texts: gives features (B, d) of B texts, on the network's device.
        prepare: makes a float batch of pictures (B, 3, H, W), uint8, on the CPU.
        name: what to call it in a record.
        checkpoint: which weights.
        resize: what `prepare` does, in words.
        num_features: length of a feature vector.
    """

    mode = "clip"

    def __init__(
        self,
        network: nn.Module,
        pictures: Callable[[Tensor], Tensor],
        texts: Callable[[list[str]], Tensor],
        prepare: Callable[[Tensor], Tensor],
        name: str,
        checkpoint: str,
        resize: str,
        num_features: int,
    ) -> None:
        super().__init__()
        self.network = network.float().eval().requires_grad_(False)
        self._pictures, self._texts, self._prepare = pictures, texts, prepare
        self.name, self.checkpoint, self.resize, self.num_features = name, checkpoint, resize, num_features

    def features(self, images: Tensor) -> Tensor:
        return functional.normalize(self._pictures(self._prepare(images.cpu()).to(images.device)).float())

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """Unit features (B, d), float32, of texts."""
        return functional.normalize(self._texts(texts).float())

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "features": f"unit length, {self.num_features} dimensions",
            "mode": self.mode,
            "resize": self.resize,
            "dtype": "float32",
        }


def mark(model: str | None, default: Checkpoint = CLIP) -> str | None:
    """Which weights `load` would read, without reading them; None if they are a folder or file without them."""
    if model is not None and model.startswith(OPEN_CLIP):
        file = Path(model.rpartition(":")[2].partition("/")[2]).expanduser()
        return hash_of(file) if file.is_file() else model
    try:
        return _checkpoint(model, default).identity()
    except UsageError:
        return None


def load(model: str | None, default: Checkpoint = CLIP) -> ClipExtractor:
    """A CLIP model with its processor and tokenizer; one copy for all metrics.

    Args:
        model: folder or repository[@revision] of the hub in transformers' format, or `open_clip:NAME/TAG_OR_FILE`.
        default: what is read if `model` is None.

    Raises:
        UsageError: a file is missing and cannot be fetched, or it is no CLIP model.
    """
    if model is not None and model.startswith(OPEN_CLIP):
        return _open_clip(model.removeprefix(OPEN_CLIP))
    checkpoint = _checkpoint(model, default)
    folder = checkpoint.folder()
    return _loaded(folder, checkpoint.identity(folder), model or folder.name)


def _checkpoint(model: str | None, default: Checkpoint) -> Checkpoint:
    return default if model is None else dataclasses.replace(default, given=model)


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path, checkpoint: str, name: str) -> ClipExtractor:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    with model_files.shown(
        model_files.of_part(folder), folder, f"{folder} is no CLIP model with processor and tokenizer"
    ) as seen:
        clip = CLIPModel.from_pretrained(seen, use_safetensors=True, dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(seen, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(seen, local_files_only=True)
    limit = clip.text_model.embeddings.position_embedding.num_embeddings

    def texts(words: list[str]) -> Tensor:
        # Always the full length, so that a text's features do not depend on its neighbours in the batch.
        tokens = tokenizer(words, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        device = clip.logit_scale.device
        pooled = clip.text_model(
            input_ids=tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)
        ).pooler_output
        return clip.text_projection(pooled)

    settings = processor.to_dict()
    said = ", ".join(f"{key} {settings.get(key)}" for key in ("size", "resample", "do_center_crop", "crop_size"))
    return ClipExtractor(
        clip,
        lambda pixels: clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output),
        texts,
        lambda images: processor(images=list(images), return_tensors="pt").pixel_values,
        Path(name).name if Path(name).is_dir() else name,
        checkpoint,
        f"the model's own processor: {said}",
        clip.visual_projection.out_features,
    )


@functools.lru_cache(maxsize=2)
def _open_clip(named: str) -> ClipExtractor:
    try:
        import open_clip
    except ModuleNotFoundError:
        raise UsageError(
            f'model {OPEN_CLIP}{named} needs open_clip, which is not installed; pip install "postdiff[metrics]"'
        ) from None
    architecture, _, weights = named.partition("/")
    file = Path(weights).expanduser()
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if architecture not in open_clip.list_models():
        raise UsageError(f"open_clip knows no model '{architecture}'; open_clip.list_models() names them")
    if not file.is_file() and weights not in known:
        raise UsageError(
            f"open_clip model '{architecture}' has no weights '{weights}'; use a file or one of {', '.join(known)}"
        )
    try:
        clip, _, transform = open_clip.create_model_and_transforms(
            architecture, pretrained=str(file) if file.is_file() else weights
        )
    # What it raises without a connection depends on where the weights are kept.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(
            f"open_clip model {named} could not be had ({reason}); name a file in place of the tag"
        ) from error
    tokenizer = open_clip.get_tokenizer(architecture)

    def prepare(images: Tensor) -> Tensor:
        pictures = [Image.fromarray(image.numpy()) for image in images.permute(0, 2, 3, 1)]
        return torch.stack([transform(picture) for picture in pictures])

    with torch.no_grad():
        length = clip.encode_image(prepare(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))).shape[1]
    return ClipExtractor(
        clip,
        clip.encode_image,
        lambda words: clip.encode_text(tokenizer(words).to(next(clip.parameters()).device)),
        prepare,
        f"{OPEN_CLIP}{architecture}" + ("" if file.is_file() else f"/{weights}"),
        hash_of(file) if file.is_file() else weights,
        "the model's own transform",
        int(length),
    )
