"""The judge: two small networks that name an image's style and its concept, and a rule that names its colour.

Both are trained on real images of seen pairs, as they are and through the autoencoder, and are tried on what they have
not seen: the style's on other concepts, the concept's on held-out pairs. More features can stand beside these networks:
whatever maps images to scores of the same classes can be passed to `measure`.
"""

import itertools

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.styles.captions import COLOURS

# Channels after the stem and after every block, which halves the side: texture ends at 16 pixels, shape at 4.
STYLE_WIDTHS, CONCEPT_WIDTHS = (16, 32, 64), (32, 64, 128, 192)


class Block(nn.Module):
    """Two convolutions and a short cut; halves the side."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1, padding_mode="replicate")
        self.second = nn.Conv2d(after, after, 3, padding=1, padding_mode="replicate")
        self.short = nn.Conv2d(before, after, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norms[0](self.first(x)))
        return F.silu(self.norms[1](self.second(y)) + self.short(F.avg_pool2d(x, 2)))


class Network(nn.Module):
    """Images (N, 3, 64, 64) in [0, 1] to scores (N, classes).

    Args:
        classes: How many there are.
        widths: Channels after the stem and after every block.
        shape: Read shape instead of texture, and look at the image without its colours too: how far each pixel is from
            the background, and its edges. The four styles of a concept have these in common.
    """

    def __init__(self, classes: int, widths: tuple[int, ...], shape: bool) -> None:
        super().__init__()
        self.shape = shape
        step = 2 if shape else 1
        self.stem = nn.Conv2d(5 if shape else 3, widths[0], 3, stride=step, padding=1, padding_mode="replicate")
        self.blocks = nn.ModuleList(Block(*pair) for pair in itertools.pairwise(widths))
        self.drop = nn.Dropout(0.3)
        # Shape is read from a 4 x 4 map, texture from means and maxima.
        self.head = nn.Linear(widths[-1] * (16 if shape else 2), classes)

    def forward(self, images: Tensor) -> Tensor:
        x = images * 2 - 1
        if self.shape:
            x = torch.cat([x, distance(images), edges(images)], 1)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.shape:
            return self.head(self.drop(F.adaptive_avg_pool2d(x, 4).flatten(1)))
        return self.head(self.drop(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))


def background(images: Tensor) -> Tensor:
    """The colour behind the drawing: the median of four corners of 4 x 4 pixels, (N, 3)."""
    corners = [images[:, :, y, x] for y in (slice(4), slice(-4, None)) for x in (slice(4), slice(-4, None))]
    return torch.cat([corner.flatten(2) for corner in corners], 2).median(2).values


def distance(images: Tensor) -> Tensor:
    """How far each pixel is from the background, (N, 1, H, W), about 0 to 2."""
    return 2 * (images - background(images)[:, :, None, None]).abs().amax(1, keepdim=True)


def edges(images: Tensor) -> Tensor:
    """How much each pixel differs from its neighbours, (N, 1, H, W), about 0 to 2."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).abs()
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).abs()
    return 2 * torch.maximum(across, down).amax(1, keepdim=True)


def nearest_colour(images: Tensor) -> Tensor:
    """Which of the named colours the background is nearest to, (N,)."""
    named = torch.tensor(list(COLOURS.values())) / 255
    return torch.cdist(background(images), named.to(images.device)).argmin(1)


class Judge(L.LightningModule):
    """One of the two networks in training.

    Args:
        classes: How many there are.
        kind: "style" or "concept".
    """

    def __init__(self, classes: int, kind: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.values: dict[str, float] = {}
        self.network = Network(classes, *((STYLE_WIDTHS, False) if kind == "style" else (CONCEPT_WIDTHS, True)))

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        torch.manual_seed(int(batch["step"]))  # dropout
        scores = self.network(batch["image"]).float()
        wrong = scores.argmax(1) != batch["label"]
        loss = F.cross_entropy(scores, batch["label"], label_smoothing=0.05)
        self.values = {"loss": loss.item(), "error": wrong.float().mean().item()}
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Scores of images in [0, 1], (N, classes)."""
        self.eval()
        return torch.cat([self.network(chunk) for chunk in images.split(128)])
