"""The dual encoder: a small CLIP of the emoji and their names, for scores and features."""

import math

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from experiments.train_emoji.data import half_size

# Images are 3/4 white; these are the round figures that CLIPImageProcessor is told.
MEAN, STD = 0.5, 0.5


class EmojiDualEncoder(L.LightningModule):
    """CLIPModel trained with the symmetric contrastive loss on slightly changed images.

    Small shifts, zooms, brightness changes and half-size copies keep it from reading the exact pixels. Half of the
    images have been through the autoencoder, as every generated image has: an encoder that only knows sharp ones
    misnames an eighth of the autoencoded images that it was trained on, and its scores then measure the decoder.
    """

    def __init__(self, tokenizer: str, peak_lr: float = 1e-3, width: int = 128, image_layers: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fraction = 0.0
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.clip = CLIPModel(clip_config(self.tokenizer, width, image_layers))

    def training_step(self, batch: dict, batch_index: int) -> Tensor:
        through = torch.rand(len(batch["image"]), 1, 1, 1, device=self.device) < 0.5
        out = self.clip(
            pixel_values=changed(torch.where(through, batch["autoencoded"], batch["image"])).sub(MEAN).div(STD),
            input_ids=token_ids(self.tokenizer, batch["caption"]).to(self.device),
        )
        logits = out.logits_per_image.float()
        target = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        self.log("loss", loss.detach())
        self.log("top1", (logits.argmax(0) == target).float().mean())
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        # As in CLIP: without the bound a batch that is all right drives the temperature to zero.
        self.clip.logit_scale.data.clamp_(max=math.log(50))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        peak = self.hparams.peak_lr
        groups = [{"params": list(self.parameters()), "lr": peak, "peak_lr": peak}]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.05)


def clip_config(tokenizer: CLIPTokenizer, width: int, image_layers: int) -> CLIPConfig:
    """Two text layers and `image_layers` image layers of `width`, 8x8 patches, projection 96."""
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "projection_dim": 96}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        **shape,
        **ends,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "num_hidden_layers": 2,
    }
    image = {**shape, "image_size": 64, "patch_size": 8, "num_hidden_layers": image_layers}
    return CLIPConfig(text_config=text, vision_config=image, projection_dim=96)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(B, 16) token numbers, padded with the end token."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def changed(images: Tensor) -> Tensor:
    """(B, 3, 64, 64) in [0, 1], shifted by up to 3 pixels, zoomed and brightened by up to 12 %, a third half-size.

    Blotches two pixels wide, of up to 8 %, stand for the texture that sampling leaves on plain areas.
    """
    n, device = len(images), images.device

    def span(size: float, *shape: int) -> Tensor:
        return (torch.rand(*shape, device=device) * 2 - 1) * size

    grid = F.affine_grid(torch.eye(2, 3, device=device).expand(n, 2, 3), list(images.shape), align_corners=False)
    grid = grid * (1 + span(0.12, n, 1, 1, 1)) + span(6 / 64, n, 1, 1, 2)
    # Outside of the image is white: sample the distance to white, which is padded with zeros.
    moved = 1 - F.grid_sample(1 - images, grid, align_corners=False)
    small = F.interpolate(half_size(moved), scale_factor=2, mode="bilinear")
    moved = torch.where(torch.rand(n, 1, 1, 1, device=device) < 1 / 3, small, moved)
    bright = 1 + span(0.12, n, 1, 1, 1)
    blotches = 0.08 * torch.rand(n, 1, 1, 1, device=device) * torch.randn(n, 3, 32, 32, device=device)
    return (1 - (1 - moved) * bright + F.interpolate(blotches, scale_factor=2, mode="bilinear")).clamp(0, 1)
