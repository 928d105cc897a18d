"""What is asked for of a plan, each part checked: the model's space, the full run, metrics, and the file to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff import catalog, metrics
from postdiff.engine.errors import UsageError, shown, unknown
from postdiff.engine.values import expanded
from postdiff.lab.files import folders
from postdiff.lab.pipelines import cards
from postdiff.lab.planner import kinds, space
from postdiff.lab.planner.space import Space
from postdiff.metrics.base import PerImageMetric

__all__ = ["PlanOptions", "full_steps", "metrics_of", "out_file", "refuse_searched", "space_of", "usual_data"]

OBJECTIVE, SCORE = "paired_lpips", "emoji_text_score"
# What a plan decides itself, and so nobody sets for all settings.
SEARCHED = (
    *("methods", "count", "batch_size", "bench", "metrics", "stages", "scheduler", "weights", "store", "trainer"),
    *("reference_steps", "reference_scheduler", "bootstrap", "step_scores"),
)
OPTIONS = ("model", "data", "device")


@dataclass(frozen=True)
class PlanOptions:
    """What is asked for.

    Attributes:
        model: name of a model card, or a pipeline folder.
        budget: as `Budget.parse` reads it.
        data: data card or file of prompts, to calibrate on.
        objective: metric that decides.
        space: name of a file of `configs/plans`, or any file; None means the one for the model.
        prompts: the most that are calibrated on.
        device: as in a row.
    """

    model: str
    budget: str
    data: str = "emoji"
    objective: str = OBJECTIVE
    space: str | None = None
    prompts: int = 48
    device: str = "auto"


def usual_data(model: str) -> str:
    """The data card to calibrate on where none is asked for: that of the model's name, else the emoji's."""
    return model if model in catalog.names("data") else PlanOptions.data


def refuse_searched(overrides: Mapping[str, Any]) -> None:
    """Refuse keys that a plan sets itself.

    Raises:
        UsageError: the first of them.
    """
    for key in overrides:
        if key in OPTIONS:
            raise UsageError(f"'{key}' has an option of its own; write --{key} {shown(overrides[key])}")
        if key in SEARCHED:
            raise UsageError(f"'{key}' is what a plan decides; leave it out, or write a space of your own")


def space_of(options: PlanOptions, card: cards.ModelCard) -> Space:
    """The space that is asked for, or else the one for the model.

    Raises:
        UsageError: no such space, a mistake in it, or one for another kind of network.
    """
    found = space.read(options.space or space.usual(card))
    own = kinds.kind_of(card)
    if found.network not in ("any", own):
        raise UsageError(
            f"space '{found.name}' is for a {found.network}, and model '{shown(options.model)}' has a {own}; use "
            f"--space {space.usual(card)}"
        )
    return found


def full_steps(found: Space, overrides: Mapping[str, Any]) -> int:
    """Steps of the full run.

    Raises:
        UsageError: what is given is no number of steps.
    """
    steps = overrides.get("steps", found.full.get("steps", 20))
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 1000:
        raise UsageError(f"steps={shown(steps)} is no number of steps of the full run; give 1 to 1000")
    return steps


def metrics_of(objective: str, encoder: bool) -> list[str]:
    """The objective, and what stands beside it: a score without reference, or a distance.

    Args:
        objective: name of a metric.
        encoder: whether the model has a dual encoder, which the score needs.

    Raises:
        UsageError: no such metric, or one of whole sets.
    """
    known = metrics.names()
    if objective not in known:
        raise unknown("objective", objective, known)
    if not issubclass(metrics.load(objective), PerImageMetric):
        raise UsageError(
            f"objective '{objective}' is of whole sets of images, and a plan compares prompt by prompt; use {OBJECTIVE}"
        )
    beside = [SCORE] if encoder else []
    if "references" not in metrics.facts(objective).needs:
        beside = [OBJECTIVE]
    return list(dict.fromkeys([objective, *beside]))


def default_file(options: PlanOptions) -> Path:
    """Where a plan is written if nothing else is said: outputs/plans/<model>-<budget>.yaml."""
    model = Path(options.model).name or "model"
    budget = "".join(sign for sign in options.budget if sign.isalnum() or sign == ".")
    return folders.outputs() / "plans" / f"{model}-{budget}.yaml"


def out_file(options: PlanOptions, out: str | None) -> Path:
    """The file to write.

    Raises:
        UsageError: its name does not end in .yaml, which `postdiff run` knows a file by.
    """
    if out is None:
        return default_file(options)
    if not out.endswith(".yaml"):
        raise UsageError(f"--out {shown(out)} must end in .yaml, which 'postdiff run' knows an experiment file by")
    return expanded(out)
