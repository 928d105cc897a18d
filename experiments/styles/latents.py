"""What the U-Net is trained on: latents of every image it may see, encoded ahead, and the batch of each step."""

import hashlib
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.styles.captions import COLOURS, STYLES, Subject, named, thin
from experiments.styles.drawings import Drawings
from experiments.styles.split import Split
from experiments.styles.vae import encode

# The share of steps at half size, up to a step and after: they cost a quarter, and teach shapes and words as well.
HALF_SHARES, LEARNT = (0.7, 0.25), 3000
TIMESTEPS = 1000


def encode_ahead(vae: Path, drawings: Drawings, split: Split, file: Path, times: int = 5) -> dict[str, Tensor]:
    """Latents of every seen image `times` times, each with a jitter of its own; kept in `file` for this autoencoder.

    Returns:
        "full" (N, 8, 16, 16) and "half" (N, 8, 8, 8) in half precision, and "subjects" (N, 3), concept, style and
        colour as numbers.
    """
    weights = vae / "diffusion_pytorch_model.safetensors"
    # The images in order: a set of held-out pairs is written in another order by every process.
    key = hashlib.sha256(weights.read_bytes() + f"{times} {list(split.seen())}".encode()).hexdigest()
    if file.is_file() and (stored := torch.load(file, weights_only=True))["key"] == key:
        return stored
    network = AutoencoderKL.from_pretrained(vae).to("cuda" if torch.cuda.is_available() else "cpu")
    colours = list(COLOURS)
    randomness = random.Random("latents")
    parts: dict[str, list[Tensor]] = {"full": [], "half": []}
    triples = split.numbered(split.seen()) * times
    for start in range(0, len(triples), 256):
        images = drawings.images(triples[start : start + 256], randomness)
        parts["full"].append(encode(network, images).half())
        parts["half"].append(encode(network, F.avg_pool2d(images, 2)).half())
    subjects = [(concept, STYLES.index(style), colours.index(colour)) for concept, style, colour in triples]
    stored = {"full": torch.cat(parts["full"]), "half": torch.cat(parts["half"]), "subjects": torch.tensor(subjects)}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**stored, "key": key}, file)
    return stored


class Captions:
    """Token ids of all captions there are, so that training looks them up."""

    def __init__(self, tokenizer: CLIPTokenizer, concepts: tuple[str, ...]) -> None:
        self.concepts = concepts
        subjects = [
            Subject(concept, style, colour)
            for concept in (None, *concepts)
            for style in (None, *STYLES)
            for colour in (None, *COLOURS)
        ]
        self.place = {subject: index for index, subject in enumerate(subjects)}
        captions = [subject.caption() for subject in subjects]
        self.ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def tokens(self, subjects: list[Subject]) -> Tensor:
        """Token ids, (N, 16)."""
        return self.ids[[self.place[subject] for subject in subjects]]


class LatentBatches:
    """The batch of a step: latents, token ids, noise and timesteps, all of them a function of the step alone.

    Many steps at first, then a quarter, are at half size, with twice as many images. Timesteps are stratified: one in
    each of equal parts of the schedule, which steadies the gradient.

    Args:
        latents: what `encode_ahead` gives.
        captions: token ids of their captions.
        size: images of a step at full size.
        before: steps that an earlier run made, of which weights alone were kept: this one goes on after them.
    """

    def __init__(self, latents: dict[str, Tensor], captions: Captions, size: int, before: int = 0) -> None:
        self.latents, self.captions, self.size, self.before = latents, captions, size, before

    def subjects(self, chosen: list[int]) -> list[Subject]:
        """What the chosen latents show."""
        return named(self.latents["subjects"][chosen].tolist(), self.captions.concepts)

    def __call__(self, step: int) -> dict[str, Any]:
        step += self.before
        randomness = random.Random(f"unet {step}")
        half = randomness.random() < HALF_SHARES[step >= LEARNT]
        size = self.size * 2 if half else self.size
        chosen = [randomness.randrange(len(self.latents["subjects"])) for _ in range(size)]
        subjects = [thin(subject, randomness) for subject in self.subjects(chosen)]
        generator = torch.Generator().manual_seed(step)
        latents = self.latents["half" if half else "full"][chosen].float()
        parts = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        return {
            "half": half,
            "latents": latents,
            "tokens": self.captions.tokens(subjects),
            "noise": torch.randn(latents.shape, generator=generator),
            "t": (parts * TIMESTEPS).long().clamp(max=TIMESTEPS - 1),
        }
