"""What can be measured of a picture: names, what they mean, and how to get the metric behind a name.

This table imports nothing heavy, so that names can be listed and checked before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from postdiff.engine.errors import unknown
from postdiff.metrics.checkpoints import IMAGE_REWARD, PICK_SCORE, Checkpoint

__all__ = ["METRICS", "MetricInfo", "find"]


@dataclass(frozen=True)
class MetricInfo:
    """One row of the table of metrics.

    Attributes:
        code: module and class, within this package.
        title: column heading.
        summary: one line for `postdiff list metrics`.
        higher_is_better: direction of improvement.
        digits: decimals worth printing.
        needs: which of "references", "encoder" and "statistics" it is built from or updated with.
        checkpoint: weights of its own that do not ship; such a metric is measured only when asked for by name.
    """

    code: tuple[str, str]
    title: str
    summary: str
    higher_is_better: bool
    digits: int
    needs: tuple[str, ...]
    checkpoint: Checkpoint | None = None

    def load(self) -> type[Any]:
        """Import the metric's class."""
        module, name = self.code
        return getattr(import_module(f"postdiff.metrics.{module}"), name)


METRICS: dict[str, MetricInfo] = {
    "paired_psnr": MetricInfo(
        ("paired", "PairedPSNR"),
        "PSNR",
        "peak signal-to-noise ratio to the reference run of the same prompt and seed, in dB, capped at 100",
        True,
        1,
        ("references",),
    ),
    "paired_ssim": MetricInfo(
        ("paired", "PairedSSIM"),
        "SSIM",
        "structural similarity to the reference run of the same prompt and seed, at most 1",
        True,
        3,
        ("references",),
    ),
    "paired_feature_distance": MetricInfo(
        ("paired", "PairedFeatureDistance"),
        "Feature dist.",
        "cosine distance in the dual encoder's features to the reference run of the same prompt and seed",
        False,
        4,
        ("references", "encoder"),
    ),
    "emoji_frechet_distance": MetricInfo(
        ("frechet", "EmojiFrechetDistance"),
        "Frechet dist.",
        "Frechet distance to the real emoji in the shipped dual encoder's features; not FID, not comparable with it",
        False,
        2,
        ("encoder", "statistics"),
    ),
    "emoji_text_score": MetricInfo(
        ("text_score", "EmojiTextScore"),
        "Text score",
        "100 x cosine of picture and prompt in the shipped dual encoder; not comparable with other CLIP scores",
        True,
        1,
        ("encoder",),
    ),
    "image_reward": MetricInfo(
        ("image_reward", "ImageReward"),
        "ImageReward",
        "reward of picture and prompt learnt from people's ratings, 0 on average; needs its weights",
        True,
        3,
        (),
        IMAGE_REWARD,
    ),
    "pick_score": MetricInfo(
        ("pick_score", "PickScore"),
        "PickScore",
        "score of picture and prompt learnt from people's choices, about 20; needs its weights",
        True,
        2,
        (),
        PICK_SCORE,
    ),
    "paired_pick_preference": MetricInfo(
        ("pick_score", "PairedPickPreference"),
        "Preferred (%)",
        "probability by PickScore that a picture is preferred to the reference run's, in percent; needs its weights",
        True,
        2,
        ("references",),
        PICK_SCORE,
    ),
}


def find(name: str) -> MetricInfo:
    """The metric of that name.

    Raises:
        UsageError: no such metric; the nearest name is suggested.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]
