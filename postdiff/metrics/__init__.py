"""What can be measured of a picture: names, what they mean, and how to get the metric behind a name.

This table imports nothing heavy, so that names can be listed and checked before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from postdiff.engine.errors import unknown
from postdiff.metrics import options
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
        checkpoint: weights of its own that do not ship.
        options: dataclass of what can be set.
        network: what stands behind a metric with options: "clean", "legacy_pytorch", "legacy_tensorflow" (clean-fid's
            modes), "mode" (its option of that name says which of them), "clip", "cmmd", "lpips" or "dists".
        real: whether it compares with the features of real pictures.
        least: pictures a seed without which it means nothing.
    """

    code: tuple[str, str]
    title: str
    summary: str
    higher_is_better: bool
    digits: int
    needs: tuple[str, ...]
    checkpoint: Checkpoint | None = None
    options: type[Any] | None = None
    network: str | None = None
    real: bool = False
    least: int = 1

    @property
    def shipped(self) -> bool:
        """Whether nothing must be fetched for it; other metrics are measured only when asked for by name."""
        return self.checkpoint is None and self.network is None

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
        least=2,
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
    "fid_clean": MetricInfo(
        ("fid", "FID"),
        "FID (clean)",
        "Frechet Inception distance as clean-fid has it; needs Inception and 'postdiff data statistics'",
        False,
        2,
        (),
        options=options.FIDOptions,
        network="clean",
        real=True,
        least=2,
    ),
    "fid_legacy_pytorch": MetricInfo(
        ("fid", "FID"),
        "FID (pytorch)",
        "Frechet Inception distance as pytorch-fid has it; needs Inception and 'postdiff data statistics'",
        False,
        2,
        (),
        options=options.FIDOptions,
        network="legacy_pytorch",
        real=True,
        least=2,
    ),
    "fid_legacy_tensorflow": MetricInfo(
        ("fid", "FID"),
        "FID (tensorflow)",
        "Frechet Inception distance as the authors' code has it; needs Inception and 'postdiff data statistics'",
        False,
        2,
        (),
        options=options.FIDOptions,
        network="legacy_tensorflow",
        real=True,
        least=2,
    ),
    "kid": MetricInfo(
        ("kid", "KID"),
        "KID",
        "kernel Inception distance, not scaled; needs Inception and 'postdiff data statistics'",
        False,
        5,
        (),
        options=options.KIDOptions,
        network="mode",
        real=True,
        least=2,
    ),
    "precision": MetricInfo(
        ("precision_recall", "Precision"),
        "Precision",
        "share of the pictures that lie among the real ones; needs Inception and 'postdiff data statistics'",
        True,
        3,
        (),
        options=options.PrecisionRecallOptions,
        network="mode",
        real=True,
        least=4,
    ),
    "recall": MetricInfo(
        ("precision_recall", "Recall"),
        "Recall",
        "share of the real pictures that lie among the pictures; needs Inception and 'postdiff data statistics'",
        True,
        3,
        (),
        options=options.PrecisionRecallOptions,
        network="mode",
        real=True,
        least=4,
    ),
    "inception_score": MetricInfo(
        ("inception_score", "InceptionScore"),
        "IS",
        "Inception Score, classes sure for each picture and spread over all; needs Inception",
        True,
        2,
        (),
        options=options.InceptionScoreOptions,
        network="legacy_tensorflow",
        least=2,
    ),
    "clip_score": MetricInfo(
        ("clip_score", "ClipScore"),
        "CLIP score",
        "100 x cosine of picture and prompt in a CLIP model of your choice; needs its weights",
        True,
        2,
        (),
        options=options.ClipOptions,
        network="clip",
    ),
    "clip_score_w25": MetricInfo(
        ("clip_score", "ClipScoreW25"),
        "CLIPScore (w=2.5)",
        "2.5 x max(cosine, 0) of picture and prompt in a CLIP model of your choice; needs its weights",
        True,
        4,
        (),
        options=options.ClipOptions,
        network="clip",
    ),
    "cmmd": MetricInfo(
        ("cmmd", "CMMD"),
        "CMMD",
        "1000 x squared MMD to real pictures in CLIP features; needs its weights and 'postdiff data statistics'",
        False,
        3,
        (),
        options=options.CMMDOptions,
        network="cmmd",
        real=True,
        least=2,
    ),
    "paired_lpips": MetricInfo(
        ("perceptual", "LPIPS"),
        "LPIPS",
        "learned perceptual distance to the reference run of the same prompt and seed; needs its backbone's weights",
        False,
        4,
        ("references",),
        options=options.LPIPSOptions,
        network="lpips",
    ),
    "paired_dists": MetricInfo(
        ("perceptual", "DISTS"),
        "DISTS",
        "distance of structure and texture to the reference run of the same prompt and seed; needs VGG16's weights",
        False,
        4,
        ("references",),
        options=options.DISTSOptions,
        network="dists",
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
