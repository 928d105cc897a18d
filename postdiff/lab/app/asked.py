"""What somebody asks for on the page, as the rows of an experiment: just what `postdiff run` would make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff.datasets.lines import LONGEST, NO_TEXT
from postdiff.engine.errors import UsageError, shown
from postdiff.lab.config.experiment import Experiment, Row
from postdiff.lab.config.schema import digest, resolve
from postdiff.lab.files import folders
from postdiff.lab.pipelines import cards, models, signature
from postdiff.lab.plan.plan import Plan, plan_rows

__all__ = ["ACCELERATED", "FEWER", "FULL", "Asked", "content", "plans"]

FULL, ACCELERATED, FEWER = "full", "accelerated", "fewer_steps"


@dataclass(frozen=True)
class Asked:
    """One comparison.

    Attributes:
        model: a model card or a pipeline folder.
        prompt: the text; what is longer than a data set may hold is cut.
        seed: as of a run, whose first prompt this is.
        steps: of the full run, which has no methods and the model's own solver.
        methods: the stack, as a row has it.
        accelerated_steps: of the run with methods; None means as many as the full run.
        scheduler: solver of the run with methods; None means the model's own.
        guidance_scale: of both; None means the model card's.
        height: in pixels; None means the model card's.
        width: in pixels; None means the model card's.
    """

    model: str = "emoji"
    prompt: str = ""
    seed: int = 0
    steps: int = 20
    methods: tuple[Any, ...] = ()
    accelerated_steps: int | None = None
    scheduler: str | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None

    @property
    def cut(self) -> str:
        """The prompt, no longer than a line of a data set may be."""
        return self.prompt[:LONGEST]

    @property
    def plain(self) -> bool:
        """Whether the run with methods is the full run, or that with fewer steps, and nothing else."""
        return not self.methods and self.scheduler is None


def content(asked: Asked, fewer: int | None, metrics: Sequence[str]) -> dict[str, Any]:
    """The comparison as an experiment file has it; its prompt is put in a file of the outputs folder.

    Args:
        asked: what for.
        fewer: plain steps of about the same work as the run with methods; None leaves that row out.
        metrics: to measure.

    Raises:
        UsageError: no prompt, or one that is no text.
    """
    base: dict[str, Any] = {"model": asked.model, "data": str(_data(asked)), "seeds": [asked.seed]}
    given = {name: getattr(asked, name) for name in ("guidance_scale", "height", "width")}
    base |= {name: value for name, value in given.items() if value is not None}
    base |= {"reference_steps": asked.steps, "reference_scheduler": {}, "metrics": list(metrics)}
    base["bench"] = {"repeats": 0}
    own: dict[str, Any] = {"label": "accelerated", "steps": asked.accelerated_steps or asked.steps}
    own |= {} if asked.scheduler is None else {"scheduler": asked.scheduler}
    own |= {"methods": list(asked.methods)} if asked.methods else {}
    rows = {FULL: {"label": f"{asked.steps} steps", "steps": asked.steps}, ACCELERATED: own}
    if fewer is not None:
        rows[FEWER] = {"label": f"{fewer} steps", "steps": fewer}
    return {"summary": f"a comparison on one prompt: {shown(asked.prompt, 80)}", "base": base, "rows": rows}


def plans(asked: Asked, fewer: int | None = None) -> dict[str, Plan]:
    """Plans of the runs, {name of the row: plan}.

    Args:
        asked: what for.
        fewer: as of `content`.

    Raises:
        UsageError: a mistake in what is asked for, or a model that makes no image of a prompt alone.
    """
    refuse_other_models(asked.model)
    written = content(asked, fewer, [])
    rows = []
    for name, values in written["rows"].items():
        own = {key: value for key, value in values.items() if key != "label"}
        rows.append(Row(name, values["label"], resolve([("form", {**written["base"], **own})]), {}, {}))
    folders.writable_outputs()
    made = plan_rows(Experiment("app", written["summary"], FULL, tuple(rows)), images=True)
    return {plan.name: plan for plan in made}


def _data(asked: Asked) -> Path:
    """A file of prompts with this one alone."""
    if not asked.prompt.strip():
        raise UsageError("the prompt is empty; write what the image shall show")
    if NO_TEXT.search(asked.cut):
        raise UsageError("the prompt holds characters that are no text; leave them out")
    text = json.dumps({"prompt": asked.cut}, ensure_ascii=False) + "\n"
    file = folders.outputs().absolute() / "app" / "prompts" / f"{digest(text)}.jsonl"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with folders.atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return file


def refuse_other_models(name: str) -> None:
    """Refuse what the page cannot run, before anything of it is loaded.

    Raises:
        UsageError: no model, an unknown one, or one that makes no image of a prompt alone.
    """
    if not name.strip():
        raise UsageError("no model is chosen; take one of the list, or write the folder of a pipeline")
    card, model = cards.card(name), f"model '{shown(name)}'"
    if card.stages:
        raise UsageError(f"{model} is {len(card.stages)} pipelines in turn; this page takes one, use 'postdiff run'")
    if card.folder is None and card.hub is None:
        raise UsageError(f"{model} names a structure alone and no weights; take another one")
    cls = models.pipeline_class(card)
    if cls is None:
        return  # told once it is loaded
    taken = signature.signature_of(cls)
    if taken.classes:
        raise UsageError(f"{model} takes a class and no prompt; use 'postdiff run' with data=imagenet")
    if taken.image and taken.name not in signature.ALSO_WITHOUT_IMAGE:
        raise UsageError(f"{model} needs an image beside the prompt; use 'postdiff run' with data that has images")
    if taken.default_frames is not None:
        raise UsageError(f"{model} makes videos; use 'postdiff run'")
