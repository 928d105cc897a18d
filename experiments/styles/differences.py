"""Does the word for a style do to a concept what that style does, also where training never showed it?

The concept score cannot tell a style that is applied from one that is remembered. Here all styles of a concept are
generated from one noise, on white; the mean of the four is taken off, in generated and real images alike, and what is
left of a style is compared with what is left of every real one.
"""

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor

from experiments.styles.captions import STYLES, Subject
from experiments.styles.drawings import Drawings
from experiments.styles.sheets import generate
from experiments.styles.split import Split


def named_right(generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a style's difference is most like its own real one, and how like.

    Args:
        generated: (N, 4, 3, H, W), the four styles of N concepts.
        real: Of the same shape.

    Returns:
        1 or 0, and the cosine with the true difference, both (N, 4).
    """
    left = [F.normalize((one - one.mean(1, keepdim=True)).flatten(2), dim=2) for one in (generated, real)]
    cosines = left[0] @ left[1].transpose(1, 2)
    right = cosines.argmax(2) == torch.arange(cosines.shape[1])
    return right.float(), cosines.diagonal(dim1=1, dim2=2)


def measure_differences(
    pipeline: StableDiffusionPipeline, drawings: Drawings, split: Split, seeds: int, guidance: float, steps: int
) -> dict[str, dict[str, float]]:
    """The share that is right (chance is a quarter) and the cosine: held-out pairs, and seen ones of their concepts."""
    concepts = [concept for concept, _ in split.held_pairs()]
    numbers = [split.concepts.index(concept) for concept in concepts]
    real = torch.stack([torch.stack([drawings.image(one, style, "white") for style in STYLES]) for one in numbers])
    held = torch.tensor([[(concept, style) in split.pairs for style in STYLES] for concept in concepts])
    rights, likeness = [], []
    for seed in range(seeds):
        # The noise of an image depends on its place: the four styles are generated in four turns of the same places.
        turns = [
            generate(pipeline, [Subject(one, style, "white") for one in concepts], steps, guidance, first=1000 * seed)
            for style in STYLES
        ]
        right, cosine = named_right(torch.stack(turns, 1), real)
        rights.append(right)
        likeness.append(cosine)
    table = {}
    for name, chosen in {"held": held, "seen": ~held}.items():
        row = {"right": torch.stack(rights)[:, chosen], "cosine": torch.stack(likeness)[:, chosen]}
        values = {key: value.mean().item() for key, value in row.items()}
        table[f"difference of the style, {name} pairs, guidance {guidance}"] = {
            **values,
            "images": row["right"].numel(),
        }
    return table
