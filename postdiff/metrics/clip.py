"""CLIP models of transformers or open_clip as extractors of image and text features; a model's dual encoder is one."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from postdiff import model_files
from postdiff.engine.errors import UsageError
from postdiff.metrics.checkpoints import CLIP, Checkpoint
from postdiff.metrics.features import Extractor

__all__ = ["FEATURE_LENGTH", "OPEN_CLIP", "ClipExtractor", "dual_encoder", "dual_encoder_hash", "load", "weights_hash"]

OPEN_CLIP = "open_clip:"
# Of a dual encoder's features: directions matter, lengths do not, and Frechet distances come out near one.
FEATURE_LENGTH = 10.0
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as processors store them
Tower = Callable[[Any], Tensor]


class ClipExtractor(Extractor):
    """Features of images and of texts in one space, in float32, independent of the batch up to rounding.

    Args:
        network: the whole model, which is moved between devices.
        images: gives projections (B, d) of what `prepare` gives.
        texts: gives projections (B, d) of B texts, on the network's device.
        prepare: makes a float batch, on any device, of images (B, 3, H, W), uint8.
        name: what to call it in a record.
        checkpoint: which weights.
        resize: what `prepare` does, in words.
        num_features: length of a feature vector.
        mode: "clip", or None for a dual encoder.
        weights: of a dual encoder, the SHA-256 of its weight file, by which reference statistics know it.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tower,
        texts: Tower,
        prepare: Tower,
        name: str,
        checkpoint: str,
        resize: str,
        num_features: int,
        mode: str | None = "clip",
        weights: str = "",
    ) -> None:
        super().__init__()
        self.network = network.float().eval().requires_grad_(False)
        self._images, self._texts, self._prepare = images, texts, prepare
        self.name, self.checkpoint, self.resize, self.num_features = name, checkpoint, resize, num_features
        self.mode, self.weights, self.length = mode, weights, 1.0 if mode else FEATURE_LENGTH

    def features(self, images: Tensor) -> Tensor:
        projections = self._images(self._prepare(images).to(images.device))
        return self.length * functional.normalize(projections.float())

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """Features (B, d), float32, of texts."""
        return self.length * functional.normalize(self._texts(texts).float())

    def identity(self) -> dict[str, Any]:
        unit = "unit length" if self.mode else f"projection of length {self.length:g}"
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "features": f"{unit}, {self.num_features} dimensions",
            **({"mode": self.mode} if self.mode else {}),
            "resize": self.resize,
            "dtype": "float32",
        }


def weights_hash(model: str | None, default: Checkpoint = CLIP) -> str | None:
    """Which weights `load` would read, without reading them; None if they are a folder or file without them."""
    if model is not None and model.startswith(OPEN_CLIP):
        file = Path(model.rpartition(":")[2].partition("/")[2]).expanduser()
        return model_files.sha256(file)[:16] if file.is_file() else model
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
    return of_transformers(folder, checkpoint.identity(folder), model or folder.name)


def _checkpoint(model: str | None, default: Checkpoint) -> Checkpoint:
    return default if model is None else dataclasses.replace(default, given=model)


@functools.lru_cache(maxsize=2)
def of_transformers(folder: Path, checkpoint: str, name: str, beside: Path | None = None) -> ClipExtractor:
    """A CLIP model in transformers' format, with its own image processor before it.

    Args:
        folder: of the model.
        checkpoint: which weights.
        name: what to call it, or a path that ends in that.
        beside: folder of tokenizer and image processor, if it is another one.

    Raises:
        UsageError: a file is missing or of another kind.
    """
    what = f"{folder} is no CLIP model with processor and tokenizer"
    with model_files.shown(model_files.of_part(folder), folder, what) as seen:
        clip: Any = CLIPModel.from_pretrained(seen, use_safetensors=True, dtype=torch.float32, local_files_only=True)
    if beside is not None:
        what = f"{beside} has no tokenizer or processor"
    beside = beside or folder
    with model_files.shown(model_files.of_part(beside, weighted=False), beside, what) as seen:
        tokenizer = AutoTokenizer.from_pretrained(seen, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(seen, local_files_only=True)
    settings = processor.to_dict()
    said = ", ".join(f"{key} {settings.get(key)}" for key in ("size", "resample", "do_center_crop", "crop_size"))
    return ClipExtractor(
        clip,
        *_towers(clip, tokenizer),
        lambda images: processor(images=list(images.cpu()), return_tensors="pt").pixel_values,
        Path(name).name if Path(name).is_dir() else name,
        checkpoint,
        f"the model's own processor: {said}",
        clip.config.projection_dim,
    )


def _towers(clip: Any, tokenizer: Any) -> tuple[Tower, Tower]:
    """Projections of prepared images, and of texts."""
    limit = clip.config.text_config.max_position_embeddings

    def images(pixels: Tensor) -> Tensor:
        return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)

    def texts(words: list[str]) -> Tensor:
        # Always the full length, so that a text's features do not depend on its neighbours in the batch.
        tokens = tokenizer(words, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        tokens = tokens.to(clip.logit_scale.device)
        pooled = clip.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return clip.text_projection(pooled)

    return images, texts


def dual_encoder(folder: Path) -> ClipExtractor:
    """The dual encoder that a model card names: a CLIPModel folder with processor and tokenizer; safetensors only.

    Raises:
        UsageError: a file is missing or damaged.
    """
    for name in ("model.safetensors", "preprocessor_config.json", "config.json"):
        if not (folder / name).is_file():
            raise UsageError(f"dual encoder {folder} has no {name}; use a CLIPModel folder saved with its processor")
    return _dual_encoder(folder, str(dual_encoder_hash(folder)))


def dual_encoder_hash(folder: Path) -> str | None:
    """Which dual encoder a folder holds; None if it holds no whole one."""
    if not (folder / "model.safetensors").is_file():
        return None
    return model_files.identity(model_files.of_part(folder), folder)


# The hash, so that a folder that was changed is read again.
@functools.lru_cache(maxsize=1)
def _dual_encoder(folder: Path, checkpoint: str) -> ClipExtractor:
    with model_files.shown(model_files.of_part(folder), folder, f"dual encoder {folder} cannot be read") as seen:
        settings = json.loads((seen / "preprocessor_config.json").read_text())
        clip: Any = CLIPModel.from_pretrained(seen, use_safetensors=True, dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(seen, local_files_only=True)
        mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
        resample = RESAMPLE[settings.get("resample", 3)]
    size = clip.config.vision_config.image_size

    def prepare(images: Tensor) -> Tensor:
        pixels = images.float() / 255
        if pixels.shape[-2:] != (size, size):
            pixels = functional.interpolate(pixels, (size, size), mode=resample, antialias=True).clamp(0, 1)
        return (pixels - mean.to(pixels.device)) / std.to(pixels.device)

    return ClipExtractor(
        clip,
        *_towers(clip, tokenizer),
        prepare,
        f"{folder.parent.name}/{folder.name}",
        checkpoint[:16],
        f"to {size}x{size}, {resample} with antialiasing; none if already that size",
        clip.config.projection_dim,
        mode=None,
        weights=model_files.sha256(folder / "model.safetensors"),
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
        pixels = images.cpu().permute(0, 2, 3, 1)
        return torch.stack([transform(Image.fromarray(image.numpy())) for image in pixels])

    with torch.no_grad():
        length = clip.encode_image(prepare(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))).shape[1]
    return ClipExtractor(
        clip,
        clip.encode_image,
        lambda words: clip.encode_text(tokenizer(words).to(next(clip.parameters()).device)),
        prepare,
        f"{OPEN_CLIP}{architecture}" + ("" if file.is_file() else f"/{weights}"),
        model_files.sha256(file)[:16] if file.is_file() else weights,
        "the model's own transform",
        int(length),
    )
