"""What a pipeline takes, read from the signature of its call, and whether card, data and run give just that."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from postdiff.engine.errors import UsageError

__all__ = ["FRAMES", "Given", "Intake", "check", "check_stage", "in_pixels", "intake_of"]

FRAMES = "num_frames"  # what video pipelines call their length
STEPS = "num_inference_steps"


@dataclass(frozen=True)
class Intake:
    """What a pipeline class takes.

    Attributes:
        name: of the class.
        accepted: all arguments of its call.
        usual_frames: the length of a video by default; None if it makes single pictures.
        usual_steps: inference steps by default.
    """

    name: str
    accepted: frozenset[str]
    usual_frames: int | None
    usual_steps: int = 50

    @property
    def prompts(self) -> bool:
        """Whether it takes text."""
        return "prompt" in self.accepted

    @property
    def classes(self) -> bool:
        """Whether it takes class labels."""
        return "class_labels" in self.accepted

    @property
    def picture(self) -> bool:
        """Whether it takes a picture: a ControlNet's condition, or where image-to-image starts."""
        return "image" in self.accepted


@dataclass(frozen=True)
class Given:
    """What a row offers its pipeline.

    Attributes:
        data: name of the data card.
        pictures: whether the card has pictures.
        classes: whether the card has classes.
        strength: of image-to-image; None if not set.
        frames: of a video; None if not set.
    """

    data: str
    pictures: bool
    classes: bool
    strength: float | None
    frames: int | None


def intake_of(cls: Any) -> Intake:
    """What the pipelines of a class take; a subclass whose call passes on what it does not name takes its parent's."""
    arguments = _arguments(cls)
    usual = int(arguments[FRAMES].default) if FRAMES in arguments else None
    steps = int(arguments[STEPS].default) if STEPS in arguments else Intake.usual_steps
    return Intake(cls.__name__, frozenset(arguments), usual, steps)


def _arguments(cls: Any) -> dict[str, inspect.Parameter]:
    """Named arguments of a class's call, up to the nearest parent that passes nothing on."""
    found: dict[str, inspect.Parameter] = {}
    for owner in (each for each in cls.__mro__ if "__call__" in vars(each)):
        own = inspect.signature(vars(owner)["__call__"]).parameters.values()
        kinds = {parameter.kind for parameter in own}
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        found = {parameter.name: parameter for parameter in own if parameter.kind not in variable} | found
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def check(wanted: Intake, given: Given) -> None:
    """Refuse what does not fit, either way.

    Raises:
        UsageError: one line with the first thing that is missing or of no use.
    """
    name, data = wanted.name, f"data '{given.data}'"
    if wanted.classes and not given.classes:
        raise UsageError(f"{name} takes no prompt but a class, and {data} has prompts; use data=imagenet")
    if not wanted.classes and not wanted.prompts:
        raise UsageError(f"{name} takes no prompt; experiments need a text-to-image or class-conditional model")
    if not wanted.classes and given.classes:
        raise UsageError(f"{data} has classes, and {name} takes prompts; use data of prompts")
    if "mask_image" in wanted.accepted:
        raise UsageError(f"{name} needs a mask, which no data card has; use an image-to-image pipeline")
    if wanted.picture and not given.pictures:
        raise UsageError(f"{name} needs a picture for each prompt, and {data} has none; name them under 'images' there")
    if not wanted.picture and given.pictures:
        raise UsageError(f"{data} has pictures, and {name} takes none; use data without 'images'")
    if given.strength is not None and "strength" not in wanted.accepted:
        raise UsageError(f"strength={given.strength} is for image-to-image, and {name} is none; leave it out")
    if given.frames is not None and wanted.usual_frames is None:
        raise UsageError(f"frames={given.frames} is for videos, and {name} makes single pictures; leave it out")


def check_stage(wanted: Intake, first: bool) -> None:
    """Refuse a pipeline that cannot stand in a cascade.

    Args:
        wanted: of its class.
        first: whether it begins, from text alone; all others go on from a picture.

    Raises:
        UsageError: one line with the first reason.
    """
    if not wanted.prompts:
        raise UsageError(f"{wanted.name} takes no prompt, and every stage of a cascade is told what to draw")
    if "mask_image" in wanted.accepted or wanted.usual_frames is not None:
        raise UsageError(f"{wanted.name} takes more than a picture, or gives more; use pipelines of single pictures")
    if first and wanted.picture:
        raise UsageError(f"{wanted.name} goes on from a picture, and the first stage has none; put another one first")
    if not first and not wanted.picture:
        raise UsageError(f"{wanted.name} takes no picture to go on from; put it first, or use an upscaler")


def in_pixels(pipe: Any) -> bool:
    """Whether the pipeline diffuses pixels: its pictures are then in [-1, 1] as tensors, all others' in [0, 1]."""
    return getattr(pipe, "vae", None) is None
