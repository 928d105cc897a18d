"""The dual encoder: a small CLIP of the drawings and their captions, by which the laboratory scores image and prompt.

It sees what the judge sees: seen images, as they are and through the autoencoder.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from experiments.styles.captions import COLOURS, STYLES, named
from experiments.styles.judge_images import Bank, uniform
from experiments.styles.latents import Captions
from experiments.train_emoji.dual_encoder import MEAN, STD, clip_config
from experiments.train_emoji.export import clean, image_processor

# Every concept of a batch comes twice, in two styles or on two colours.
CONCEPTS, TIMES = 48, 2


class StylesDualEncoder(L.LightningModule):
    """CLIPModel trained with the symmetric contrastive loss.

    Args:
        tokenizer: Folder of the CLIPTokenizer.
        width: Of both towers.
        image_layers: Of the image tower, which sees 8 x 8 patches.
    """

    def __init__(self, tokenizer: str, width: int = 128, image_layers: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.values: dict[str, float] = {}
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.clip = CLIPModel(clip_config(self.tokenizer, width, image_layers))

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        out = self.clip(pixel_values=batch["image"].sub(MEAN).div(STD), input_ids=batch["tokens"])
        logits = out.logits_per_image.float()
        target = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        self.values = {"loss": loss.item(), "error": (logits.argmax(1) != target).float().mean().item()}
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        # As in CLIP: without the bound a batch that is all right drives the temperature to zero.
        self.clip.logit_scale.data.clamp_(max=math.log(50))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)


class PairBatches:
    """The batch of a step: images and the token ids of their whole captions, no caption twice."""

    def __init__(self, bank: Bank, captions: Captions) -> None:
        self.bank = bank
        self.tokens = captions.tokens(named(bank.subjects.tolist(), captions.concepts))
        self.of_concept = [torch.nonzero(bank.subjects[:, 0] == one).flatten() for one in range(len(captions.concepts))]

    def __call__(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        chosen: dict[tuple[int, ...], int] = {}
        for concept in torch.randperm(len(self.of_concept), generator=generator)[:CONCEPTS].tolist():
            places = self.of_concept[concept]
            for place in places[torch.randint(len(places), (TIMES,), generator=generator)].tolist():
                chosen[tuple(self.bank.subjects[place].tolist())] = place
        rows = list(chosen.values())
        return {"image": changed(self.bank.images[rows] / 255, generator), "tokens": self.tokens[rows]}


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, 64, 64) in [0, 1], moved and resized a little, some blurred, with blotches as sampling leaves them."""
    count = len(images)
    size, shift = uniform(generator, count, -0.1, 0.1).exp(), uniform(generator, 2 * count, -0.08, 0.08).view(2, count)
    zero = torch.zeros(count)
    rows = torch.stack([torch.stack([size, zero, shift[0]], 1), torch.stack([zero, size, shift[1]], 1)], 1)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    small = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    images = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.25, small, images)
    blotches = torch.randn(count, 3, 32, 32, generator=generator) * uniform(generator, count, 0, 0.08).view(-1, 1, 1, 1)
    return (images + F.interpolate(blotches, scale_factor=2, mode="bilinear")).clamp(0, 1)


def export_dual_encoder(checkpoint: Path, tokenizer: Path, to: Path) -> None:
    """Write the averaged weights as a CLIPModel folder in half precision, with tokenizer and image processor."""
    module = StylesDualEncoder.load_from_checkpoint(
        checkpoint, map_location="cpu", tokenizer=str(tokenizer), weights_only=False
    ).eval()
    module.clip.half().save_pretrained(to)
    module.tokenizer.save_pretrained(to)
    image_processor().save_pretrained(to)
    clean(to / "config.json")


@torch.no_grad()
def retrieved(folder: Path, bank: Bank, captions: Captions) -> dict[str, Tensor]:
    """Which images (N,) choose their own caption: among all of the bank's, and of its parts, the others being given.

    "caption" is among the captions of the bank; "concept", "style" and "colour" among all of them, with the other two
    parts as they are.
    """
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    images = bank.floats().sub(MEAN).div(STD).split(128)
    seen = F.normalize(torch.cat([clip.get_image_features(pixel_values=one).pooler_output for one in images]), dim=1)

    shape = (len(captions.concepts), len(STYLES), len(COLOURS))
    every = captions.tokens(named(list(itertools.product(*map(range, shape))), captions.concepts))
    texts = F.normalize(
        torch.cat([clip.get_text_features(input_ids=one).pooler_output for one in every.split(512)]), dim=1
    )
    table = texts.view(*shape, -1)
    own = [tuple(row) for row in bank.subjects.tolist()]
    distinct = list(dict.fromkeys(own))
    among = torch.stack([table[one] for one in distinct])
    found: dict[str, list[bool]] = {name: [] for name in ("caption", "concept", "style", "colour")}
    for image, (concept, style, colour) in zip(seen, own, strict=True):
        found["caption"].append(distinct[int((among @ image).argmax())] == (concept, style, colour))
        found["concept"].append(int((table[:, style, colour] @ image).argmax()) == concept)
        found["style"].append(int((table[concept, :, colour] @ image).argmax()) == style)
        found["colour"].append(int((table[concept, style] @ image).argmax()) == colour)
    return {name: torch.tensor(right).float() for name, right in found.items()}
