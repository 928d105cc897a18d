"""Features of the dual encoder, and the Frechet distance between two sets of them."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from experiments.train_emoji.dual_encoder import MEAN, STD

# Unit vectors in 96 dimensions have coordinates of about 0.1; 10 times that gives variances of order 1.
SCALE = 10.0
FEATURES = "10 * L2-normalised projected image embeddings"


@torch.no_grad()
def embed(clip: CLIPModel, images: Tensor) -> Tensor:
    """Unit image embeddings of images in [0, 1], (N, 3, H, W) to (N, 96)."""
    images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True, align_corners=False)
    images = images.sub(MEAN).div(STD).to(clip.dtype)
    features = [clip.visual_projection(clip.vision_model(chunk).pooler_output) for chunk in images.split(64)]
    return F.normalize(torch.cat(features).float(), dim=-1)


def mean_and_covariance(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (96,) and covariance (96, 96) of the scaled embeddings, in float64."""
    features = embeddings.double() * SCALE
    return features.mean(0), torch.cov(features.T)


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))."""
    # The eigenvalues of a product of two positive matrices are real and not negative, up to rounding.
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root).item()


def reference_statistics(encoder: Path, images: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Statistics of the reference images, and what they were made with, in fp32 from the weights as stored."""
    clip = CLIPModel.from_pretrained(encoder, dtype=torch.float32).eval()
    mean, covariance = mean_and_covariance(embed(clip, images))
    weights = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    metadata = {"features": FEATURES, "encoder_sha256": weights, "images": str(len(images)), "resize": "64 bilinear"}
    return {"mean": mean, "covariance": covariance, "count": torch.tensor(len(images))}, metadata
