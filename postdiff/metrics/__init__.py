"""The metrics by name. One of a user's own is the one class in `metrics/NAME.py` of a folder in `POSTDIFF_PATH`.

What tables print of the shipped ones is read from their files, not imported: loading torch takes seconds.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff.engine import plugins
from postdiff.engine.errors import UsageError, unknown

if TYPE_CHECKING:
    from postdiff.metrics.base import BaseMetric

__all__ = ["SHIPPED", "MetricFacts", "facts", "load", "names"]

# Module and class of each, in the order of tables.
SHIPPED = {
    "paired_lpips": "perceptual.LPIPS",
    "paired_psnr": "paired.PairedPSNR",
    "paired_ssim": "paired.PairedSSIM",
    "paired_feature_distance": "paired.PairedFeatureDistance",
    "emoji_frechet_distance": "fid.EmojiFrechetDistance",
    "emoji_text_score": "clip_score.EmojiTextScore",
    "frechet_efficientnet": "fid.FrechetEfficientNet",
    "kernel_efficientnet": "kid.KernelEfficientNet",
    "image_reward": "image_reward.ImageReward",
    "pick_score": "pick_score.PickScore",
    "paired_pick_preference": "pick_score.PairedPickPreference",
    "fid_clean": "fid.CleanFID",
    "fid_legacy_pytorch": "fid.PytorchFID",
    "fid_legacy_tensorflow": "fid.TensorflowFID",
    "kid": "kid.KID",
    "precision": "precision_recall.Precision",
    "recall": "precision_recall.Recall",
    "inception_score": "inception_score.InceptionScore",
    "clip_score": "clip_score.ClipScore",
    "clip_score_w25": "clip_score.ClipScoreW25",
    "cmmd": "cmmd.CMMD",
    "paired_dists": "perceptual.DISTS",
}

NEEDS = ("references", "encoder", "statistics")


@dataclass(frozen=True)
class MetricFacts:
    """What a metric's class says of itself; see `BaseMetric` for each."""

    title: str
    higher_is_better: bool
    summary: str = ""
    digits: int = 2
    least: int = 1
    needs: tuple[str, ...] = ()
    by_default: bool = False


_SAID = [field.name for field in fields(MetricFacts)]


def names() -> list[str]:
    """Names of all metrics: the shipped ones in the order of tables, then those of one's own, sorted."""
    return [*SHIPPED, *(name for name in plugins.own("metrics") if name not in SHIPPED)]


def load(name: str) -> type[BaseMetric]:
    """Import a metric's class.

    Raises:
        UsageError: no such metric (the nearest name is suggested), two of that name, or a file of one's own is broken.
    """
    from postdiff.metrics.base import BaseMetric

    if name not in names():
        raise unknown("metric", name, names())
    if name in SHIPPED:
        if name in plugins.own("metrics"):
            raise UsageError(f"metric '{name}' is defined twice: here and by a file of yours; rename the file")
        module, _, own = SHIPPED[name].partition(".")
        found: type[BaseMetric] = getattr(import_module(f"postdiff.metrics.{module}"), own)
        return found
    found = plugins.find("metrics", name, BaseMetric)
    if problem := _problem(found):
        raise UsageError(f"metric '{name}': {found.__name__} {problem}")
    return found


def _problem(found: type[BaseMetric]) -> str | None:
    """What is wrong with a class of one's own, and the remedy."""
    for said, kind in (("title", str), ("higher_is_better", bool)):
        if not isinstance(value := getattr(found, said), kind) or value == "":
            return f"says no {said}; write {said} = ... in it"
    for need in found.needs:
        if need not in NEEDS:
            return f"needs '{need}', which no row has; choose from: {', '.join(NEEDS)}"
    if found.Options is not None and not is_dataclass(found.Options):
        return "has Options that are no dataclass; write @dataclass above them"
    return None


def facts(name: str) -> MetricFacts:
    """What a metric says of itself.

    Raises:
        UsageError: as `load` does.
    """
    if name in SHIPPED:
        return _shipped_facts(name)
    found = load(name)
    said = {each: getattr(found, each) for each in _SAID if each != "summary"}
    return MetricFacts(**said, summary=(found.__doc__ or "").strip().partition("\n")[0])


@functools.cache
def _shipped_facts(name: str) -> MetricFacts:
    """What a class says, or else its base in the same file."""
    module, _, own = SHIPPED[name].partition(".")
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    node: ast.ClassDef | None = classes[own]
    said: dict[str, Any] = {"summary": (ast.get_docstring(classes[own]) or "").partition("\n")[0]}
    while node is not None:
        for line in node.body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id in _SAID:
                said.setdefault(line.targets[0].id, ast.literal_eval(line.value))
        node = classes.get(ast.unparse(node.bases[0]))
    return MetricFacts(**said)
